"""The shared variables of corpus templates: each name makes one plausible value from a random source."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Maker = Callable[[Random], str]


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_WORDS = _split(
    "orders billing payments inventory catalog search session profile mailer reports ingest events audit "
    "gateway scheduler worker indexer cache users metrics export import sync archive backup replica "
    "primary shard ledger checkout cart pricing shipping invoice notifier tracker crawler parser router "
    "broker consumer producer stream alpha beta gamma delta north south east west main default common "
    "core base util agent collector"
)
_NAMES = _split(
    "Atlas Orion Falcon Mercury Vega Titan Nimbus Phoenix Aurora Quasar OrderService PaymentGateway "
    "UserStore DataPump EventBus Scheduler0 HDD-7 ThinkPad PowerEdge ProLiant"
)
_USERS = _split(
    "root admin alice bob carol dave deploy jenkins www-data postgres mysql jdoe msmith backup svc_app git ubuntu"
)
_HOSTS = _split("web db cache app node worker edge gw mail proxy build bastion storage master")
_DOMAINS = _split("example.com corp.local internal.net prod.example.org lan svc.cluster.local")
_TLDS = _split("example.com example.org acme.io contoso.net internal.example.com")
_FILES = _split(
    "config.yaml app.log data.json settings.ini server.xml users.csv index.html core.dump report.pdf "
    "main.py schema.sql cert.pem libssl.so state.db nginx.conf access.log upload.tmp events.parquet "
    "part-00001.gz"
)
_DIRS = _split("/var/log /etc /usr/lib /opt/app /srv/data /home/alice /tmp /var/lib/mysql /mnt/nfs /data /var/spool")
_URLPATHS = _split(
    "/ /index.html /api/v1/users /login /static/app.js /health /api/orders/{n} /admin /images/logo.png "
    "/metrics /v2/items?page={n} /search?q=abc"
)
_DEVICES = _split("sda sdb sda1 nvme0n1 nvme0n1p2 md0 dm-0 sr0 ttyS0 loop3 vda xvdf")
_IFACES = _split("eth0 ens3 enp0s31f6 wlan0 br0 docker0 bond0 lo veth1a2b3c tun0 eno1 GigabitEthernet0/1")
_SERVICES = _split(
    "nginx sshd cron docker mysql postgresql redis httpd rsyslog network firewalld cups bluetooth kubelet chronyd"
)
_MODULES = _split(
    "auth core http db cache session storage network billing scheduler crypto i18n ipv6 nf_conntrack snd_hda_intel"
)
_CLASSES = _split(
    "OrderService UserController ConnectionPool TaskRunner FileStore SessionManager EventHandler "
    "com.example.app.Main org.acme.web.Dispatcher java.util.concurrent.ThreadPoolExecutor BlockManager "
    "HttpClient"
)
_METHODS = [
    "getUser",
    "processOrder",
    "run",
    "execute",
    "handleRequest",
    "loadConfig",
    "flush",
    "commit",
    "connect",
    "doFilter",
    "__init__",
    "parse",
]
_JOBS = _split(
    "nightly-backup build-main etl_daily reindex import-users deploy-prod cleanup report_weekly sync_inventory job_{n}"
)
_IMAGES = _split(
    "nginx:1.25 redis:7-alpine registry.example.com/shop/api:v{s}.{s} postgres:16 busybox ghcr.io/acme/worker:latest"
)
_NAMESPACES = _split("default kube-system monitoring production staging ingress-nginx payments")
_REGIONS = _split("us-east-1 eu-west-1 eu-central-1 ap-southeast-2 us-west-2")
_TABLES = _split("users orders payments sessions public.events audit_log customers line_items inventory")
_COLUMNS = _split("id user_id created_at email status amount name updated_at")
_TOPICS = _split("orders events payments user-signups clickstream logs-raw __consumer_offsets")
_KEYS = _split("user:{n} session.timeout max_connections app.name log_level cart:{n} feature.flag timeout retries")
_APPS = _split("shop-api frontend billing auth-service reporting mobile-backend crm wiki")
_PACKAGES = [
    "openssl",
    "libc6",
    "nginx",
    "python3-requests",
    "lodash",
    "curl",
    "kernel-core",
    "tzdata",
    "log4j-core",
    "jackson-databind",
    "systemd",
]
_BROWSERS = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:121.0) Gecko/20100101 Firefox/121.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "curl/8.4.0",
    "python-requests/2.31.0",
    "kube-probe/1.28",
)
_SIGNALS = _split("SIGTERM SIGKILL SIGHUP SIGINT SIGSEGV SIGABRT SIGUSR1")
_ERRNOS = _split("ECONNREFUSED ENOENT EACCES ETIMEDOUT EPIPE ENOSPC EIO ECONNRESET EAGAIN ENOMEM EINVAL")
_ERRTEXTS = [
    "Connection refused",
    "No such file or directory",
    "Connection timed out",
    "Broken pipe",
    "Input/output error",
    "Connection reset by peer",
    "Invalid argument",
    "No route to host",
    "Network is unreachable",
    "Bad file descriptor",
    "Resource temporarily unavailable",
    "Name or service not known",
]
_COUNTRIES = _split("US DE FR JP BR IN GB NL AU CA")
_LANGS = _split("en en_US de_DE fr pt_BR ja_JP zh_CN")
_TZS = _split("UTC Europe/Berlin America/New_York Asia/Tokyo EST CET")
_BRANCHES = _split("main master develop feature/login release/{s}.{s} hotfix/{n}")
_REPOS = _split("acme/shop octo/widgets infra/terraform web/frontend platform/api")
_ENDINGS = ("txt", "log", "conf", "dat", "so")
_MONTHS = _split("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec")


def _pick(*values: str) -> Maker:
    """One of the values; `{n}` and `{s}` in it become a number and a digit."""

    def make(random: Random) -> str:
        value = random.choice(values)
        if "{" not in value:
            return value
        return value.replace("{n}", str(random.randrange(1, 10_000))).replace("{s}", str(random.randrange(10)))

    return make


def _between(low: int, high: int, suffix: str = "") -> Maker:
    return lambda random: f"{random.randint(low, high)}{suffix}"


def _hex(length: int) -> Maker:
    return lambda random: f"{random.getrandbits(4 * length):0{length}x}"


def _decimal(low: float, high: float, digits: int = 2) -> Maker:
    return lambda random: f"{random.uniform(low, high):.{digits}f}"


def _ip(random: Random) -> str:
    first = random.choice(("10", "192.168", "172.16", "203.0", "198.51", "93.184", "185.220"))
    return ".".join([*first.split("."), *(str(random.randint(0, 254)) for _ in range(4 - len(first.split("."))))])


def _ipv6(random: Random) -> str:
    return random.choice(("fe80::", "2001:db8::")) + ":".join(f"{random.getrandbits(16):x}" for _ in range(3))


def _host(random: Random) -> str:
    name = random.choice(_HOSTS)
    return random.choice(
        (
            name,
            f"{name}{random.randint(1, 40)}",
            f"{name}-{random.randint(1, 9):02d}",
            f"ip-10-0-0-{random.randint(2, 254)}",
        )
    )


def _fqdn(random: Random) -> str:
    return f"{_host(random)}.{random.choice(_DOMAINS)}"


def _uuid(random: Random) -> str:
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _mac(random: Random) -> str:
    return ":".join(f"{random.getrandbits(8):02x}" for _ in range(6))


def _path(random: Random) -> str:
    return f"{random.choice(_DIRS)}/{_file(random)}"


def _file(random: Random) -> str:
    if random.random() < 0.7:
        return random.choice(_FILES)
    return f"{random.choice(_WORDS)}{random.choice(('', '-1', '_2024'))}.{random.choice(_ENDINGS)}"


def _url(random: Random) -> str:
    host = random.choice((_fqdn, _ip))(random)
    return (
        f"{random.choice(('http', 'https'))}://{host}{random.choice(('', ':8080', ':443'))}{SHARED['urlpath'](random)}"
    )


def _words(random: Random) -> str:
    return " ".join(random.choice(_WORDS) for _ in range(random.randint(2, 4)))


def _email(random: Random) -> str:
    return f"{random.choice(_USERS)}@{random.choice(_TLDS)}"


def _bytes(random: Random) -> str:
    return str(int(10 ** random.uniform(1, 9)))


def _clock(random: Random) -> tuple[int, int, int]:
    return random.randrange(24), random.randrange(60), random.randrange(60)


def date(random: Random) -> str:
    return f"{random.randint(2019, 2027)}-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}"


def time(random: Random) -> str:
    hour, minute, second = _clock(random)
    return f"{hour:02d}:{minute:02d}:{second:02d}"


def month_day(random: Random) -> str:
    """As syslog writes it: the day padded with a blank."""
    return f"{random.choice(_MONTHS)} {random.randint(1, 28):2d}"


def _iso(random: Random) -> str:
    return f"{date(random)}T{time(random)}.{random.randrange(1000):03d}{random.choice(('Z', '+00:00', '+02:00'))}"


def _duration(random: Random) -> str:
    return random.choice(
        (
            f"{random.randint(1, 59)}s",
            f"{random.randint(1, 59)}m{random.randint(0, 59)}s",
            f"{random.uniform(0, 900):.3f}ms",
            f"{random.randint(1, 48)}h",
            f"00:{random.randint(0, 59):02d}:{random.randint(0, 59):02d}",
        )
    )


def _version(random: Random) -> str:
    return ".".join(str(random.randrange(30)) for _ in range(random.randint(2, 4))) + random.choice(
        ("", "", "-rc1", "-SNAPSHOT", "+build7")
    )


def _size(random: Random) -> str:
    return f"{random.randint(1, 900)}{random.choice(('K', 'M', 'G', 'KB', 'MB', 'GB', 'MiB', 'GiB', ' MB', ' GB'))}"


def _pod(random: Random) -> str:
    ending = "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
    return f"{random.choice(_APPS)}-{random.getrandbits(36):x}-{ending}"


def _thread(random: Random) -> str:
    return random.choice(
        (
            "main",
            f"pool-{random.randint(1, 9)}-thread-{random.randint(1, 40)}",
            f"http-nio-8080-exec-{random.randint(1, 20)}",
            f"worker-{random.randint(0, 31)}",
            "Thread-4",
            "scheduler",
            "IPC Server handler 3 on 9000",
        )
    )


def _hadoop(kind: str) -> Maker:
    def make(random: Random) -> str:
        job = f"{random.randint(1_400_000_000_000, 1_790_000_000_000)}_{random.randrange(10_000):04d}"
        task = f"{job}_{random.choice('mr')}_{random.randrange(1_000_000):06d}"
        return f"task_{task}" if kind == "task" else f"attempt_{task}_{random.randrange(4)}"

    return make


SHARED: dict[str, Maker] = {
    "ip": _ip,
    "ipv6": _ipv6,
    "port": _between(1024, 65535),
    "host": _host,
    "fqdn": _fqdn,
    "user": _pick(*_USERS),
    "uid": lambda random: random.choice(("0", "33", str(random.randint(1000, 60000)))),
    "gid": _between(0, 60000),
    "pid": _between(2, 99999),
    "int": _between(0, 99999),
    "small": _between(0, 9),
    "big": _between(1_000_001, 9_999_999_999),
    "float": _decimal(0, 1000),
    "pct": lambda random: random.choice((str(random.randint(1, 100)), f"{random.uniform(1, 100):.1f}")),
    "bytes": _bytes,
    "size": _size,
    "kb": _between(4, 16_000_000),
    "mb": _between(1, 64_000),
    "gb": _between(1, 900),
    "ms": _between(1, 60_000),
    "secs": _between(1, 3600),
    "us": _between(1, 900_000),
    "duration": _duration,
    **{f"hex{length}": _hex(length) for length in (4, 8, 16, 32, 40, 64)},
    "uuid": _uuid,
    "mac": _mac,
    "path": _path,
    "file": _file,
    "dir": _pick(*_DIRS),
    "url": _url,
    "urlpath": _pick(*_URLPATHS),
    "email": _email,
    "date": date,
    "time": time,
    "iso": _iso,
    "epoch": _between(1_500_000_000, 1_800_000_000),
    "version": _version,
    "device": _pick(*_DEVICES),
    "iface": _pick(*_IFACES),
    "service": _pick(*_SERVICES),
    "module": _pick(*_MODULES),
    "class": _pick(*_CLASSES),
    "method": _pick(*_METHODS),
    "thread": _thread,
    "job": _pick(*_JOBS),
    "task": lambda random: random.choice(
        (_hadoop("task")(random), random.choice(_JOBS[:6]), f"task-{random.randrange(1000)}")
    ),
    "attempt": _hadoop("attempt"),
    "container": lambda random: random.choice((_hex(12)(random), random.choice(_APPS), f"{random.choice(_APPS)}_1")),
    "image": _pick(*_IMAGES),
    "pod": _pod,
    "namespace": _pick(*_NAMESPACES),
    "node": lambda random: random.choice(
        (_host(random), _fqdn(random), f"ip-10-0-{random.randint(0, 9)}-{random.randint(2, 250)}.ec2.internal")
    ),
    "cluster": _pick("prod", "staging", "eu-main", "analytics", "kafka-a", "cluster-{n}"),
    "region": _pick(*_REGIONS),
    "bucket": _pick("my-bucket", "backups-prod", "logs-archive", "acme-data-{n}", "static-assets"),
    "db": _pick("appdb", "orders", "postgres", "test", "shop_production", "analytics", "mydb"),
    "table": _pick(*_TABLES),
    "column": _pick(*_COLUMNS),
    "index": _pick("idx_users_email", "orders_pkey", "logs-2024.01.15", "products", "ix_created_at", "events-{n}"),
    "query": _pick(
        "SELECT * FROM users WHERE id = {n}",
        "UPDATE orders SET status='paid' WHERE id={n}",
        "INSERT INTO audit_log VALUES ({n}, 'x')",
        "SELECT count(*) FROM events",
    ),
    "topic": _pick(*_TOPICS),
    "queue": _pick("default", "mail", "high-priority", "celery", "orders.created", "dead-letter", "jobs"),
    "key": _pick(*_KEYS),
    "word": _pick(*_WORDS),
    "words": _words,
    "name": _pick(*_NAMES),
    "app": _pick(*_APPS),
    "pkg": _pick(*_PACKAGES),
    "browser": _pick(*_BROWSERS),
    "status1xx": _pick("100", "101", "103"),
    "status2xx": _pick("200", "200", "200", "201", "202", "204", "206"),
    "status3xx": _pick("301", "302", "304", "307", "308"),
    "status4xx": _pick("400", "401", "403", "404", "404", "405", "409", "410", "422", "429", "499"),
    "status5xx": _pick("500", "500", "502", "503", "504"),
    "verb": _pick("GET", "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"),
    "signal": _pick(*_SIGNALS),
    "errno": _pick(*_ERRNOS),
    "errtext": _pick(*_ERRTEXTS),
    "exit": _pick("0"),
    "exitnz": _pick("1", "1", "2", "126", "127", "137", "139", "143", "255"),
    "temp": _between(25, 105),
    "volts": _decimal(0.8, 13, 3),
    "rpm": _between(300, 15_000),
    "country": _pick(*_COUNTRIES),
    "tz": _pick(*_TZS),
    "lang": _pick(*_LANGS),
    "bool": _pick("true", "false"),
    "level": _pick("INFO", "DEBUG", "WARN", "info", "debug"),
    "commit": lambda random: random.choice((_hex(7)(random), _hex(40)(random))),
    "branch": _pick(*_BRANCHES),
    "repo": _pick(*_REPOS),
}
