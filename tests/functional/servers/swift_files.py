"""The configuration of Swift's servers, to be filled in by `swift`."""

from __future__ import annotations

COMMON = """\
[swift-hash]
swift_hash_path_suffix = tests
[storage-policy:0]
name = default
default = yes
[swift-constraints]
max_file_size = {max_file_size}
container_listing_limit = {listing_limit}
"""

# container_update_timeout: what a busy machine does not list in time would not be listed until an
# updater runs.
SERVER = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {home}
devices = {devices}
mount_check = false
workers = 0
fallocate_reserve = 0
disable_fallocate = true
db_preallocation = off
recon_cache_path = {home}
container_update_timeout = 5
[pipeline:main]
pipeline = healthcheck {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
[filter:healthcheck]
use = egg:swift#healthcheck
[object-updater]
[container-updater]
"""

# error_suppression_limit: a server that was killed would not be asked for a minute once it is back.
# rate_limit_*: by default segments are sent at one a second after the tenth.
# SERVICE: accounts that need a service token beside the user's.
PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {home}
workers = 0
{tls}
[pipeline:main]
pipeline = catch_errors access gatekeeper healthcheck {cache} listing_formats bulk tokens \
authtoken keystoneauth tempauth copy container_quotas account_quotas {slo} dlo versioned_writes \
symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 5
node_timeout = {node_timeout}
error_suppression_limit = 1000000
recheck_account_existence = 60
recheck_container_existence = 60
[filter:access]
paste.filter_factory = __main__:AccessLog.filter
log = {log}
changes = {changes}
[filter:cache]
paste.filter_factory = __main__:ProcessCache.filter
[filter:memory]
paste.filter_factory = __main__:Memory.filter
name = swift.cache
changes = {changes}
[filter:tokens]
paste.filter_factory = __main__:Memory.filter
name = tests.tokens
changes = {changes_of_tokens}
[filter:slo]
use = egg:swift#slo
max_manifest_segments = {max_manifest_segments}
rate_limit_under_size = 0
[filter:dlo]
use = egg:swift#dlo
rate_limit_after_segment = 1000000
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:tempauth]
use = egg:swift#tempauth
reseller_prefix = TEMP
fernet_key_tests = {fernet}
active_fernet_key_id = tests
{users}
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
auth_type = password
auth_url = {keystone}
www_authenticate_uri = {keystone}
username = {service}
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
delay_auth_decision = true
include_service_catalog = false
service_token_roles = service
service_token_roles_required = true
{tokens}
[filter:keystoneauth]
use = egg:swift#keystoneauth
reseller_prefix = AUTH, SERVICE
operator_roles = admin, member
reseller_admin_role = ResellerAdmin
SERVICE_service_roles = service
"""
PLAIN = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "copy",
    "container_quotas",
    "account_quotas",
    "symlink",
)
