# Makes what this SBC needs in the Microsoft 365 tenant; checklist.md says when. What exists already is left as it is, so it can
# be run again. With -WhatIf it only says what it would make. undo.ps1 takes away what it made.
#Requires -Modules MicrosoftTeams
[CmdletBinding(SupportsShouldProcess)]
param()

$ErrorActionPreference = 'Stop'

$Trunk = {{ handoff_trunk | powershell }}
$Mark = {{ ('Made by setup.ps1 for ' ~ handoff_trunk) | powershell }}
{% if handoff_kind != 'carrier' %}
$Name = {{ handoff_name | powershell }}
$NumberPattern = {{ handoff_number_pattern | powershell }}
{% endif %}

# Signing in changes nothing, and without it -WhatIf could not look.
$Session = & {
    $WhatIfPreference = $false
    Connect-MicrosoftTeams{{ ' -TeamsEnvironmentName ' ~ (sbc_cloud_facts.powershell_environment | powershell) if sbc_cloud_facts.powershell_environment else '' }} -ErrorAction Stop
}
Write-Host "Signed in as $($Session.Account), tenant $($Session.TenantId)"

{% if handoff_kind != 'derived' %}
# The trunk. All three settings matter: Kamailio listens on this port, without OPTIONS Microsoft never calls the trunk active,
# and a trunk that is not enabled is refused.
$Gateway = Get-CsOnlinePSTNGateway -ErrorAction Stop | Where-Object { $_.Identity -eq $Trunk }
if (-not $Gateway) {
    if ($PSCmdlet.ShouldProcess($Trunk, 'New-CsOnlinePSTNGateway')) {
        New-CsOnlinePSTNGateway -Fqdn $Trunk -SipSignalingPort 5061 -SendSipOptions $true -Enabled $true `
            -Description $Mark -ErrorAction Stop | Out-Null
        Write-Host "Made the trunk $Trunk"
    }
}
elseif ($Gateway.SipSignalingPort -eq 5061 -and $Gateway.SendSipOptions -and $Gateway.Enabled) {
    Write-Host "Found the trunk $Trunk"
}
else {
    Write-Warning ("The trunk $Trunk exists, but not as the SBC needs it. If nobody meant it so: Set-CsOnlinePSTNGateway " +
        "-Identity $Trunk -SipSignalingPort 5061 -SendSipOptions `$true -Enabled `$true")
}
{% endif %}
{% if handoff_kind == 'single' %}

{% endif %}
{% if handoff_kind != 'carrier' %}
# The PSTN usage, which ties route and policy together. It is for this trunk alone, so the route needs no priority.
if ((Get-CsOnlinePstnUsage -Identity Global -ErrorAction Stop).Usage -contains $Name) {
    Write-Host "Found the PSTN usage $Name"
}
elseif ($PSCmdlet.ShouldProcess($Name, 'Set-CsOnlinePstnUsage -Usage @{Add}')) {
    Set-CsOnlinePstnUsage -Identity Global -Usage @{ Add = $Name } -ErrorAction Stop | Out-Null
    Write-Host "Made the PSTN usage $Name"
}

# The voice route.
$Route = Get-CsOnlineVoiceRoute -ErrorAction Stop | Where-Object { $_.Identity -eq $Name }
if (-not $Route) {
    if ($PSCmdlet.ShouldProcess($Name, 'New-CsOnlineVoiceRoute')) {
{% if handoff_kind == 'derived' %}
        try {
            New-CsOnlineVoiceRoute -Identity $Name -NumberPattern $NumberPattern -OnlinePstnGatewayList @($Trunk) `
                -OnlinePstnUsages @($Name) -Description $Mark -ErrorAction Stop | Out-Null
        }
        catch {
            throw ("Microsoft does not take the route to $Trunk yet: $($_.Exception.Message) If it does not find the gateway, " +
                'the domain is not verified, has no licensed user with a number yet, or is younger than 24 hours: see checklist.md.')
        }
{% else %}
        New-CsOnlineVoiceRoute -Identity $Name -NumberPattern $NumberPattern -OnlinePstnGatewayList @($Trunk) `
            -OnlinePstnUsages @($Name) -Description $Mark -ErrorAction Stop | Out-Null
{% endif %}
        Write-Host "Made the voice route $Name"
    }
}
elseif ($Route.OnlinePstnGatewayList -contains $Trunk -and $Route.OnlinePstnUsages -contains $Name) {
    Write-Host "Found the voice route $Name"
}
else {
    Write-Warning "The voice route $Name exists, but does not lead to $Trunk by the PSTN usage $Name."
}

# The policy, to be given to users.
$Policy = Get-CsOnlineVoiceRoutingPolicy -ErrorAction Stop | Where-Object { $_.Identity -in $Name, "Tag:$Name" }
if (-not $Policy) {
    if ($PSCmdlet.ShouldProcess($Name, 'New-CsOnlineVoiceRoutingPolicy')) {
        New-CsOnlineVoiceRoutingPolicy -Identity $Name -OnlinePstnUsages @($Name) -Description $Mark `
            -ErrorAction Stop | Out-Null
        Write-Host "Made the voice routing policy $Name"
    }
}
elseif ($Policy.OnlinePstnUsages -contains $Name) {
    Write-Host "Found the voice routing policy $Name"
}
else {
    Write-Warning "The voice routing policy $Name exists, but is without the PSTN usage $Name."
}
{% endif %}
