"""Regions, sizes and images on offer: a part of DigitalOcean's, with its slugs and list prices.

Sizes and prices in US dollars: https://www.digitalocean.com/pricing/droplets, regions:
https://docs.digitalocean.com/platform/regional-availability/. Only names and shapes matter to the lab; a customer's
costs are read from the real GET /v2/sizes.
"""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]

_REGION_NAMES = {
    "nyc1": "New York 1",
    "nyc2": "New York 2",
    "nyc3": "New York 3",
    "ams3": "Amsterdam 3",
    "sfo2": "San Francisco 2",
    "sfo3": "San Francisco 3",
    "sgp1": "Singapore 1",
    "lon1": "London 1",
    "fra1": "Frankfurt 1",
    "tor1": "Toronto 1",
    "blr1": "Bangalore 1",
    "syd1": "Sydney 1",
}
# New droplets are no longer made here; the region is still listed.
_CLOSED_REGIONS = {"nyc2"}

# slug: memory in MiB, vCPUs, disk in GiB, transfer in TiB a month, dollars a month, description
_SIZES: dict[str, tuple[int, int, int, float, float, str]] = {
    "s-1vcpu-512mb-10gb": (512, 1, 10, 0.5, 4.0, "Basic"),
    "s-1vcpu-1gb": (1024, 1, 25, 1.0, 6.0, "Basic"),
    "s-1vcpu-2gb": (2048, 1, 50, 2.0, 12.0, "Basic"),
    "s-2vcpu-2gb": (2048, 2, 60, 3.0, 18.0, "Basic"),
    "s-2vcpu-4gb": (4096, 2, 80, 4.0, 24.0, "Basic"),
    "s-4vcpu-8gb": (8192, 4, 160, 5.0, 48.0, "Basic"),
    "c-2": (4096, 2, 25, 4.0, 42.0, "CPU-Optimized"),
}
_SIZE_REGIONS = {"s-1vcpu-512mb-10gb": {"nyc1", "ams3", "sfo3", "sgp1", "fra1", "syd1"}}
_HOURS_A_MONTH = 672

_IMAGES: dict[str, tuple[int, str, str, int]] = {
    "debian-13-x64": (203442103, "Debian", "13 x64", 7),
    "debian-12-x64": (194421905, "Debian", "12 x64", 7),
    "ubuntu-24-04-x64": (195932981, "Ubuntu", "24.04 (LTS) x64", 7),
}


def _size_regions(slug: str) -> list[str]:
    return sorted(_SIZE_REGIONS.get(slug, _REGION_NAMES.keys()) - _CLOSED_REGIONS)


SIZES: dict[str, JSON] = {
    slug: {
        "slug": slug,
        "memory": memory,
        "vcpus": vcpus,
        "disk": disk,
        "transfer": transfer,
        "price_monthly": price,
        "price_hourly": round(price / _HOURS_A_MONTH, 5),
        "regions": _size_regions(slug),
        "available": True,
        "description": description,
        "disk_info": [{"type": "local", "size": {"amount": disk, "unit": "gib"}}],
    }
    for slug, (memory, vcpus, disk, transfer, price, description) in _SIZES.items()
}

REGIONS: dict[str, JSON] = {
    slug: {
        "name": name,
        "slug": slug,
        "features": ["backups", "ipv6", "metadata", "install_agent", "storage", "image_transfer"],
        "available": slug not in _CLOSED_REGIONS,
        "sizes": [size for size, facts in SIZES.items() if slug in facts["regions"]],
    }
    for slug, name in _REGION_NAMES.items()
}

IMAGES: dict[str, JSON] = {
    slug: {
        "id": id,
        "name": name,
        "distribution": distribution,
        "slug": slug,
        "public": True,
        "regions": sorted(_REGION_NAMES),
        "created_at": "2025-10-01T12:00:00Z",
        "min_disk_size": disk,
        "type": "base",
        "size_gigabytes": 0.5,
        "description": f"{distribution} {name}",
        "tags": [],
        "status": "available",
    }
    for slug, (id, distribution, name, disk) in _IMAGES.items()
}
