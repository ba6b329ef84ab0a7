# Takes away what setup.ps1 made in the Microsoft 365 tenant, in the reverse order, and nothing else: it knows its own by their
# description. It asks before each step; -Confirm:$false does not ask, -WhatIf only says what it would do.
#Requires -Modules MicrosoftTeams
[CmdletBinding(SupportsShouldProcess, ConfirmImpact = 'High')]
param()

$ErrorActionPreference = 'Stop'

$Trunk = {{ handoff_trunk | powershell }}
$Mark = {{ ('Made by setup.ps1 for ' ~ handoff_trunk) | powershell }}
{% if handoff_kind != 'carrier' %}
$Name = {{ handoff_name | powershell }}
{% endif %}

$Session = & {
    $WhatIfPreference = $false
    $ConfirmPreference = 'None'
    Connect-MicrosoftTeams{{ ' -TeamsEnvironmentName ' ~ (sbc_cloud_facts.powershell_environment | powershell) if sbc_cloud_facts.powershell_environment else '' }} -ErrorAction Stop
}
Write-Host "Signed in as $($Session.Account), tenant $($Session.TenantId)"

{% if handoff_kind != 'carrier' %}
# The policy, after the users who have it.
$Policy = Get-CsOnlineVoiceRoutingPolicy -ErrorAction Stop | Where-Object { $_.Identity -in $Name, "Tag:$Name" }
if (-not $Policy) {
    Write-Host "There is no voice routing policy $Name"
}
elseif ($Policy.Description -ne $Mark) {
    Write-Warning "The voice routing policy $Name was not made by setup.ps1 and stays."
}
else {
    $Users = Get-CsOnlineUser -ErrorAction Stop | Where-Object { "$($_.OnlineVoiceRoutingPolicy)" -in $Name, "Tag:$Name" }
    foreach ($User in $Users) {
        if ($PSCmdlet.ShouldProcess($User.UserPrincipalName, "Grant-CsOnlineVoiceRoutingPolicy -PolicyName `$null")) {
            Grant-CsOnlineVoiceRoutingPolicy -Identity $User.UserPrincipalName -PolicyName $null -ErrorAction Stop | Out-Null
            Write-Host "Took the policy from $($User.UserPrincipalName)"
        }
    }
    if ($PSCmdlet.ShouldProcess($Name, 'Remove-CsOnlineVoiceRoutingPolicy')) {
        Remove-CsOnlineVoiceRoutingPolicy -Identity $Name -Confirm:$false -ErrorAction Stop | Out-Null
        Write-Host "Removed the voice routing policy $Name"
    }
}

# The voice route.
$Route = Get-CsOnlineVoiceRoute -ErrorAction Stop | Where-Object { $_.Identity -eq $Name }
if (-not $Route) {
    Write-Host "There is no voice route $Name"
}
elseif ($Route.Description -ne $Mark) {
    Write-Warning "The voice route $Name was not made by setup.ps1 and stays."
}
elseif ($PSCmdlet.ShouldProcess($Name, 'Remove-CsOnlineVoiceRoute')) {
    Remove-CsOnlineVoiceRoute -Identity $Name -Confirm:$false -ErrorAction Stop | Out-Null
    Write-Host "Removed the voice route $Name"
}

# The PSTN usage, which has no description: it goes when nothing uses it.
if ((Get-CsOnlinePstnUsage -Identity Global -ErrorAction Stop).Usage -notcontains $Name) {
    Write-Host "There is no PSTN usage $Name"
}
else {
    $UsedBy = @(Get-CsOnlineVoiceRoute -ErrorAction Stop) + @(Get-CsOnlineVoiceRoutingPolicy -ErrorAction Stop) |
        Where-Object { $_.OnlinePstnUsages -contains $Name -and -not ($WhatIfPreference -and $_.Description -eq $Mark) } |
        ForEach-Object { $_.Identity }
    if ($UsedBy) {
        Write-Warning "The PSTN usage $Name stays: $($UsedBy -join ', ') uses it."
    }
    elseif ($PSCmdlet.ShouldProcess($Name, 'Set-CsOnlinePstnUsage -Usage @{Remove}')) {
        Set-CsOnlinePstnUsage -Identity Global -Usage @{ Remove = $Name } -Confirm:$false -ErrorAction Stop | Out-Null
        Write-Host "Removed the PSTN usage $Name"
    }
}
{% endif %}
{% if handoff_kind == 'single' %}

{% endif %}
{% if handoff_kind != 'derived' %}
# The trunk, which Microsoft does not remove while a voice route leads to it.
$Gateway = Get-CsOnlinePSTNGateway -ErrorAction Stop | Where-Object { $_.Identity -eq $Trunk }
$Routes = Get-CsOnlineVoiceRoute -ErrorAction Stop |
    Where-Object { $_.OnlinePstnGatewayList -contains $Trunk -and -not ($WhatIfPreference -and $_.Description -eq $Mark) } |
    ForEach-Object { $_.Identity }
if (-not $Gateway) {
    Write-Host "There is no trunk $Trunk"
}
elseif ($Gateway.Description -ne $Mark) {
    Write-Warning "The trunk $Trunk was not made by setup.ps1 and stays."
}
elseif ($Routes) {
    Write-Warning "The trunk $Trunk stays: the voice route $($Routes -join ', ') leads to it."
}
elseif ($PSCmdlet.ShouldProcess($Trunk, 'Remove-CsOnlinePSTNGateway')) {
    Remove-CsOnlinePSTNGateway -Identity $Trunk -Confirm:$false -ErrorAction Stop | Out-Null
    Write-Host "Removed the trunk $Trunk"
}
{% endif %}
