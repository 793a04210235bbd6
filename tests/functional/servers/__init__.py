"""Real servers, file systems and bad connections for tests, on loopback and in a private directory.

Fixtures (tests/functional/conftest.py)
    scratch             Scratch, one a run
    nginx               Nginx, one a run; what was logged before is forgotten
    ceph                Ceph on bluestore, one a run; healed before and after the test
    radosgw             RadosGateway on it, one a run; both healed before and after the test
    radosgw_ceph        its Ceph
    s3_user, s3_raw     User, one a run, and boto3's client for it
    bucket              Bucket of s3_user, one a test
    keystone            Keystone, one a run; as ceph, and what was asked before is forgotten
    swift               Swift on it, as keystone
    swift_user          KeystoneUser, one a run; what it is called must be quoted in a URL
    swift_other         another, in another project
    swift_raw           swiftclient's connection for swift_user, one a run
    container           Container of swift_user, one a test
    cinder              Cinder on keystone and a Ceph of its own, one a run; healed before and after
                        the test, which may use its exports and locks (cinder_stores.as_client)
    vsphere             VSphere, one a run; healed before and after the test, without files and
                        requests at its beginning
    hostile             Hostile, one a test
    proxies             proxies(target, **options) -> Proxy, closed at the end of the test
    filesystems         Filesystems, unmounted at the end of the test
    faulty_filesystem   FaultyFilesystem, one a test

A fixture or call that this machine cannot serve raises Missing: the test is skipped with the
reason, or fails where IMGSTORE_REQUIRE (names separated by commas, or "all") asks for it. Names:
nginx, openssl, ceph, radosgw, keystone, swift, cinder, vsphere, glance, fuse, ext4, xfs, btrfs,
quota, tmpfs, bind, run_as.
The logs of all servers, as far as written during a test that fails, are in its report.

`make servers-up` and `make servers-down` run servers for a person: servers.control. A new backend
there is a method of servers.holding._Servers and an entry in its BACKENDS.

servers.process
    free_port() -> int
    free_ports(count) -> range                      for servers that choose themselves
    until(condition, *, seconds, what)              ask every 20 ms; ServerFailed when time is up
    accepts(address) -> bool
    state(pid) -> str                               "" is gone (zombies too), "T" frozen
    Process(name, command, *, directory, ready, environment=None, start_seconds=30.0)
        .start() .stop(seconds=10.0) .kill() .freeze() .thaw() .restart()   also `with Process(...)`
        .revive()                                   thaw or start, and wait until it answers
        .pid .alive .log .log_text(limit=16384)
        .untouched                                 it runs, and nothing was done to it since
    ServerFailed
servers.proxy
    Proxy(target, *, host="127.0.0.1", port=0, delay=0.0, bandwidth=None, window=1 MiB)
        .address .port .connections .passed["up" | "down"]
        .delay .bandwidth .window                   settable at any time
        .cut(after, *, direction="down", times=1, reset=True)
        .stall() .flow() .refuse() .accept() .drop() .close()
servers.link                                        a Proxy in a process of its own
    link(scratch, target, *, delay=0.0, bandwidth=None, window=1 MiB)   context manager -> Link
    Link: .address .port .process
servers.names
    resolving(name, address)                        context manager: also for all names below
servers.nginx                                       paths: the module's docstring
    nginx(scratch)                                  context manager -> Nginx
    Nginx: .root .ca .ports .process .url(path, *, scheme="http", host="127.0.0.1")
        .forget() .requests(at_least=0, seconds=5.0) -> list[Logged]
    USER, PASSWORD
servers.ceph
    ceph(scratch, *, store="memstore", size=8 GiB, mgr=False)   context manager -> Ceph
        "memstore" is there in 1 s and must not be killed; "bluestore" takes 4 s and may be
    Ceph: .conf .directory .fsid .mon .osd .mgr (Process) .heal() .kill()
        .command(*arguments, seconds=30.0) -> str   as the ceph program
        .run(command, *, conf=None, seconds=30.0) -> str    another one of its programs
        .pool(name, *, pg_num=8, application="rbd") .quota(pool, max_bytes | None)
        .user(name, *, mon, osd) -> User(name, conf, keyring)
        .pause() .unpause()                         no reads, no writes
        .fill() .make_room()                        no writes
servers.radosgw
    radosgw(scratch, cluster, *, part=5 MiB, cache=False)   context manager -> RadosGateway
    RadosGateway: .cluster .conf .ca .ports["http" | "https"] .process .heal()
        .url(scheme="http", *, host="127.0.0.1")    host NAME for buckets as BUCKET.s3.test
        .user(name, *, max_size=None) -> User(name, access_key, secret_key)
        .quota(user, max_bytes | None) .bucket(user, name)
        .session(user, *, seconds) -> Session(access_key, secret_key, token)
        .swift_user(user) -> SwiftUser(name, key, url)
        .admin(*arguments, seconds=60.0) -> str     the radosgw-admin program
    NAME, PART
servers.buckets                                     boto3
    bucket(gateway, user)                           context manager -> Bucket
    raw_client(url, user, **options)
servers.keystone
    keystone(scratch, *, short_seconds=5)           context manager -> Keystone
    Keystone: .url .secure_url .ca .process .ports["http" | "https"] .admin .service .heal()
        .short_url                                  tokens from there live short_seconds
        .user(name, *, project="", roles=("member",), password="", domain="Default")
            -> KeystoneUser(url, id, name, password, project, project_id, domain)
        .domain(name) -> id .project(name, *, domain="Default") -> id
        .grant(user, role) .withdraw(user, role) .change(user, **about)
        .application_credential(user)
            -> ApplicationCredential(url, id, name, secret, project_id)
        .token(user, *, url="") -> str .revoke(token) .trusts() -> list
        .endpoint(type, region, interface, url) .call(method, path, body=None)  as the admin
        .requests                                   Requests, of both Keystones
servers.swift                                       endpoints: the module's docstring
    swift(scratch, keystone, *, max_file_size=5 MiB, listing_limit=10_000, node_timeout=10.0,
          token_cache_seconds=-1, cache=False, devices=None, in_catalogue=True)
        context manager -> Swift
        LARGE, cache=True, token_cache_seconds=300: as in production
    Swift: .keystone .url .account .container .object .proxy (Process) .processes .heal()
        .front(*, tls=False, slo=True, max_manifest_segments=1000, token_cache_seconds=None)
            -> Front(url, process, requests, ca, .info())   one more proxy
        .info() .requests                           of the first proxy
        .v1_user(TESTER | OTHER | MANAGER) -> SwiftUser(name, key, url)
        .account_url(user) .quota(user, max_bytes | None, *, container="") .update()
    TESTER, OTHER, MANAGER, LARGE
servers.containers                                  keystoneauth1, python-swiftclient
    container(user)                                 context manager -> Container
    raw_swift(user, **options) session(user, **options) empty_account(user)
    expired(account_url, token)                     wait for it
servers.openstack
    Requests: .forget() .read(method="") -> list[Logged]
    ask(method, url, headers=None, body=None, *, ca=None, seconds=30.0) -> Answer
servers.cinder                                      types, backends: the module's docstring
    cinder(scratch, keystone, cluster, *, rpc_seconds=3, export=None)
        context manager -> Cinder
    Cinder: .user .url .port .services["api" | "scheduler" | "rbd" | "nfs" | "broker"] .heal()
        .path .mounts .locks                        what a client on this host needs
        .cluster .export .key_file .requests        Requests, of the API
        .call(method, path, body=None, *, version="3.70", user=None)    None for 404
        .volumes(*, user=None) .volume(id) .make(*, kind="fast", size=1, **about) -> id
        .wait(id, *states, seconds=60.0) .status(id) .states() .wait_snapshot_gone(id)
        .empty() .discard(*, but=()) -> ids of what will be gone .quota(**limits)
        .rescue(after=250.0, again=60.0)            context manager: heals what hangs for so long
servers.cinder_stores                               imgstore
    login(user) -> options cinder_store(server, kind="fast", **options)
    as_client(server)                               context manager: PATH, OSLO_LOCK_PATH
servers.glance                                      IMGSTORE_GLANCE: the module's docstring
    glance(scratch, stores, *, library="imgstore", identity=None, cache=True)
        context manager -> Glance
    Glance: .url .port .process .library .user .requests .staged .cached
        .switch(library) .token()
        .another(library)                           context manager -> URL, Process
    file_store(*directories) s3_store(url, user, bucket, **more) rbd_store(pool, user)
    swift_store(directory, user, container) cinder_store(server, kind="fast")   -> GlanceStore
servers.glance_client                               python-glanceclient
    Images(server, *, url="")
        .create() .add(data, *, store=None) .stage(data) .bring(id, stores, *, all_must=True, **how)
        .settled(id) -> status .read(id) .get(id) .locations(id) .stores(id) .delete(*ids) .ids()
        .ask(method, path, *, headers=None, body=None) -> Answer .client
    digests(data)
servers.vsphere                                     paths, ports, faults: the module's docstring
    vsphere(scratch, *, port=0, wsdl=None)          context manager -> VSphere
    VSphere: .user .password .ca .foreign_ca .ports["https" | "http" | "expired" | "foreign"]
        .process .datastores .url(target="", port="https", *, host="127.0.0.1")
        .datastore(datacenter="DC0", name="images") -> Datastore
        .requests                                   Requests, below
        .heal() .empty() .sessions() -> list[str] .expire()
        .behave(*, conflict=None, parents=None, impatient=None, idle_seconds=None)
        .answer(on, status, *, location="", after=0, at_once=False, nth=1, times=1)
        .refuse(method, fault, *, nth=1, times=1)   the call raises it
        .fail(task, fault, *, done=False, nth=1, times=1)   the task ends with it
        .slow(on, seconds, *, nth=1, times=None)
        .cut(on, after=0, *, nth=1, times=1) .lose(on, *, nth=1, times=1)
        .stall(on, after=0, *, nth=1, times=1) .release()
    Datastore: .datacenter .name .root .names() .content(path) .put(path, data) .empty()
        .resize(*, capacity=None, free=None) .change(*, accessible=None, maintenance=None)
        .full(path="") .target(path) .url(path, port="https", *, host="127.0.0.1")
    Requests: .forget() .read(on="") -> list[Logged]
    Logged(method, path, query, operation, status, scheme, host, port, password, headers)
    USER, PASSWORD, DATACENTERS, DATASTORES, CAPACITY
servers.datacenters                                 pyVmomi
    raw_vsphere(server, *, port="https", password=None, **options)  context manager
    session_cookie(service) ticket_cookie(service, method, url)     -> the header Cookie
    datacenter_of(service, datastore) managed(service, datastore)   managed objects
    finished(task, *, seconds=20.0)                 its info
servers.vmware_stores                               imgstore
    login(server, *, host="127.0.0.1", port="https")    options of a store
    files(server) -> list[str]                      all that is on the datastores
    used(server, store, data=DATA)                  add, read and delete
servers.kept                                        imgstore
    Kept: .get(make) -> Store .close_readers() .close()   one store for many tests
servers.golang
    build(sources, *, what, needs, package) -> Path
servers.hostile                                     paths: the module's docstring
    Hostile(content=None, *, stall_seconds=30.0)
        .content .changed .etag .requests .address .url(target) .release() .forget() .close()
    full_backlog()                                  context manager -> address that never connects
    MARKER, DENIED, Request(method, target, headers, .path, .query)
servers.filesystems
    Filesystems(scratch)                            every method returns the mounted directory
        .ext4(size=16 MiB) .xfs(size=300 MiB) .btrfs(size=128 MiB) .tmpfs(size=1 MiB, inodes=None)
        .quota(limit=1 MiB, size=128 MiB)           EDQUOT, for root too
        .readonly(directory) .bind(directory, at=None) .unmount(directory)
    run_as(snippet, *arguments, uid=NOBODY, read_all=True, seconds=60.0) -> CompletedProcess[str]
servers.fuse
    faulty(scratch, *, source=None)                 context manager -> FaultyFilesystem
    FaultyFilesystem: .path .source .process
        .fail(operation, errno, *, nth=1, times=None)
        .hang(operation, *, nth=1, times=None, seconds=60.0)
        .release() .calls(operation) .hanging()
    Refusals: fail("tmpfile", EOPNOTSUPP), fail("link", EPERM), fail("rename2", EINVAL),
    fail("flock", ENOLCK).
servers.certificates
    Authority(directory, *, name=...): .ca .issue(name, hosts, *, days=2) -> Certificate(chain, key)
servers.scratch
    Scratch(parent=None): .path .directory(name) .logs()
servers.missing
    Missing(what, reason), required(what), tool(name, *, what, package), root(what)
"""
