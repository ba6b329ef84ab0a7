"""The API's paths, a module for each noun."""

from __future__ import annotations

from lab.digitalocean.routes import account, domains, droplets, firewalls, images, projects, reserved_ips, tags
from lab.digitalocean.wire import Routes

ROUTES: Routes = [
    route
    for noun in (account, tags, droplets, domains, firewalls, images, reserved_ips, projects)
    for route in noun.ROUTES
]
