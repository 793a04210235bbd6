"""What Cinder and its broker are told, and the programs that they call."""

from __future__ import annotations

# report_interval, service_down_time: how soon the others know that a service is gone.
# rpc_response_timeout: how long the API waits for a service that is gone.
# rados_connection_…: how often an image that is in use is tried to be removed.
# cache: it is ours, see the program; a token is looked at again after token_cache_time.
CONFIGURATION = """\
[DEFAULT]
transport_url = rabbit://guest:guest@127.0.0.1:{broker}/
rpc_response_timeout = {rpc_seconds}
host = tests
my_ip = 127.0.0.1
state_path = {home}/state
api_paste_config = {share}/api-paste.ini
resource_query_filters_file = {share}/resource_filters.json
rootwrap_config = {share}/rootwrap.conf
auth_strategy = keystone
enabled_backends = rbd,nfs
default_volume_type = fast
glance_api_servers = http://127.0.0.1:9
target_helper = fake
use_stderr = true
default_log_levels = sqlalchemy=WARNING,keystonemiddleware=WARNING,oslo.messaging=WARNING,\
amqp=WARNING,oslo_messaging=WARNING,werkzeug=WARNING
scheduler_driver_init_wait_time = 1
report_interval = 1
service_down_time = 8
periodic_interval = 2
periodic_fuzzy_delay = 0
backend_stats_polling_interval = 5
[database]
connection = sqlite:///{home}/cinder.db?timeout=30
sqlite_synchronous = false
[oslo_concurrency]
lock_path = {home}/locks
[oslo_messaging_rabbit]
heartbeat_timeout_threshold = 0
kombu_reconnect_delay = 0.2
rabbit_quorum_queue = false
[coordination]
backend_url = file://{home}/state
[privsep_osbrick]
helper_command = {environment}/bin/privsep-helper --config-file {home}/cinder.conf
[cinder_sys_admin]
helper_command = {environment}/bin/privsep-helper --config-file {home}/cinder.conf
[keystone_authtoken]
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
username = {user}
password = {password}
project_name = service
user_domain_id = default
project_domain_id = default
cache = swift.cache
token_cache_time = 1
service_token_roles_required = false
[rbd]
volume_driver = cinder.volume.drivers.rbd.RBDDriver
volume_backend_name = rbd
rbd_pool = {pool}
rbd_user = {ceph_user}
rbd_ceph_conf = {ceph_conf}
rbd_cluster_name = {cluster}
rbd_secret_uuid = 00000000-0000-0000-0000-000000000001
rbd_exclusive_cinder_pool = true
rados_connect_timeout = 10
rados_connection_interval = 1
rados_connection_retries = 4
[nfs]
volume_driver = cinder.volume.drivers.nfs.NfsDriver
volume_backend_name = nfs
nfs_shares_config = {home}/shares
nfs_mount_point_base = {home}/mounts
nas_secure_file_permissions = false
nas_secure_file_operations = false
nfs_sparsed_volumes = true
"""

BROKER = """\
listeners.tcp.local = 127.0.0.1:{port}
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = warning
log.file = false
"""

# What stands for programs that need a kernel with NFS, or rights that root has anyway. The real
# one stands behind it.
PROGRAMS = {
    "mount": """\
#!/bin/sh
case " $* " in *" -t nfs "*)
    for word; do share=$point; point=$word; done
    {mount} --bind "${{share#*:}}" "$point" || exit
    case "$*" in *nosuid,nodev,noexec*)
        exec {mount} -o remount,bind,nosuid,nodev,noexec "$point"
    esac
    exit 0
esac
exec {mount} "$@"
""",
    # Cinder asks it for the monitors at every attachment, which takes as long as all the rest.
    "ceph": """\
#!/bin/sh
case "$1 $2" in "mon dump") exec cat {monitors} ;; esac
exec {ceph} "$@"
""",
    # Cinder asks whether it is there.
    "mount.nfs": "#!/bin/sh\n",
    "sudo": '#!/bin/sh\nexec "$@"\n',
    "cinder-rootwrap": '#!/bin/sh\nshift\nexec "$@"\n',
    "glance-rootwrap": '#!/bin/sh\nshift\nexec "$@"\n',
}
