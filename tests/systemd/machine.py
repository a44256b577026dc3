"""A real systemd as process 1 of a container, over an overlay of this machine's own root: nothing of it is changed.

Needs root and `systemd-nspawn`. What a test wants inside is put there by `write` and `install`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import logclf_daemon
from logclf_daemon.resources import folder

Result = TypeVar("Result")

BOOT_SECS = 60.0
DEADLINE_SECS = 40.0
CONTROLLERS = [Path("/sys/fs/cgroup") / name for name in ("memory", "pids", "cpu", "blkio")]  # of version 1
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")
PREFIX = Path("/opt/logclf-daemon")
CLEARED = (
    *("etc/systemd/system/*", "var/log/*", "tmp/*", "etc/logclf"),
    *("var/*/logclf-daemon", "var/*/private/logclf-daemon"),
)


def interpreter() -> Path | None:
    """A Python like this one that a service may read; None: it is in somebody's home."""
    for python in (Path(f"/usr/bin/python3.{sys.version_info.minor}"), Path(sys.executable).resolve()):
        if python.exists() and not python.is_relative_to("/root") and not python.is_relative_to("/home"):
            return python
    return None


class Machine:
    """Boots on entry, is gone on exit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"logclf{os.getpid()}"
        self.root = folder / "disk" / "root"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Machine:
        try:
            self._mount()
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _mount(self) -> None:
        disk = self._folder / "disk"
        disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "tmpfs", str(disk)], check=True)
        for name in ("upper", "work", "root"):
            (disk / name).mkdir()
        layers = f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True)
        # No service of this machine starts in there, and nothing an earlier run left is seen.
        places = " ".join(f"{self.root}/{place}" for place in CLEARED)
        subprocess.run(["bash", "-c", f"rm -rf {places}"], capture_output=True, check=False)

    def _boot(self) -> None:
        binds = [f"--bind-ro={path}:{PREFIX}-packages/{at}" for at, path in enumerate(package_folders())]
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "-M", self._name, "--register=no", "--keep-unit"]
        command += ["--private-network", "--console=pipe", "--notify-ready=yes", *binds]
        command += ["-b", "systemd.log_target=journal"]
        # Cgroups of its own: what is limited inside does not limit this process.
        groups = [path / self._name for path in _present()]
        joined = "".join(f"mkdir -p {group}; echo $$ >{group}/cgroup.procs; " for group in groups)
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["bash", "-c", f'{joined} exec "$@"', "boot", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_LOCK": "0"},
            )
        self.wait_for(self._is_up, BOOT_SECS)
        for path in _present():  # else MemoryMax= has no effect
            mount = ["mount", "-o", "remount,bind,rw,nosuid,nodev,noexec", str(path)]
            subprocess.run(["nsenter", "-t", str(self._leader), "-m", *mount], capture_output=True, check=False)
        self.run("systemctl daemon-reexec")

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "console").read_text(errors="replace")
        for child in _children(self._process.pid):
            for leader in (child, *_children(child)):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{leader}/comm").read_text().strip() == "systemd":
                        self._leader = leader
        state = self.run("systemctl is-system-running", check=False).strip() if self._leader else ""
        return state in {"running", "degraded"}

    def stop(self) -> None:
        """Power it off and take its disk away."""
        if self._process is not None:
            if self._leader:
                with contextlib.suppress(OSError):
                    os.kill(self._leader, signal.SIGRTMIN + 4)
            try:
                self._process.wait(20 if self._leader else 0.1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for place in (self.root, self.root.parent):
            subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
        for path in _present():
            group = str(path / self._name)
            subprocess.run(["find", group, "-depth", "-type", "d", "-delete"], capture_output=True, check=False)

    # --- use --------------------------------------------------------------------------------------------------------

    def run(self, script: str, *, check: bool = True) -> str:
        """What a shell script printed inside; with `check` it must succeed."""
        done = self.result(script)
        assert not check or done.returncode == 0, f"{script}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def result(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, whatever comes of it."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        command = [*enter, "env", "-i", *ENVIRONMENT, "bash", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file there."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def read(self, path: str) -> str:
        """The text of a file as the machine has it."""
        return self.run(f"cat {path}")

    def property(self, unit: str, name: str) -> str:
        """What `systemctl show` says."""
        return self.run(f"systemctl show -P {name} {unit}").strip()

    def in_network(self, call: Callable[[], Result]) -> Result:
        """Call it in a thread whose sockets are the machine's; what it opened may be used from anywhere."""
        results: list[Result] = []

        def inside() -> None:
            descriptor = os.open(f"/proc/{self._leader}/ns/net", os.O_RDONLY)
            try:
                entered = ctypes.CDLL(None, use_errno=True).setns(descriptor, 0)
            finally:
                os.close(descriptor)
            assert entered == 0, os.strerror(ctypes.get_errno())
            results.append(call())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        (result,) = results
        return result

    def wait_for(self, condition: Callable[[], object], secs: float = DEADLINE_SECS) -> None:
        """Return when it holds; fails at the deadline."""
        deadline = time.monotonic() + secs
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain\n{self._said()}"
            time.sleep(0.05)

    def _said(self) -> str:
        shown = "systemctl status --no-pager -l logclf-daemon; journalctl -u 'logclf-daemon*' -n 40 -o cat --no-pager"
        return self.result(shown).stdout if self._leader else (self._folder / "console").read_text(errors="replace")

    def install(self, name: str = "logclf-daemon", version: str | None = None) -> Path:
        """An environment with this daemon in /opt, as `python3 -m venv` and pip make it; another `version` of it."""
        prefix = self.root / "opt" / name
        python = interpreter()
        assert python is not None
        packages = prefix / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        shutil.copytree(Path(logclf_daemon.__file__).parent, packages / "logclf_daemon", ignore=_IGNORED, symlinks=True)
        for data in ("rules", "models", "systemd"):
            shutil.copytree(folder(data), packages / "logclf_daemon" / data, dirs_exist_ok=True, ignore=_IGNORED)
        (packages / "packages.pth").write_text(_other_packages())
        (prefix / "bin").mkdir()
        (prefix / "bin" / "python").symlink_to(python)
        (prefix / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
        script = f"#!{PREFIX}/bin/python\nimport sys\nfrom logclf_daemon.cli import main\nsys.exit(main())\n"
        (prefix / "bin" / "logclf-daemon").write_text(script)
        (prefix / "bin" / "logclf-daemon").chmod(0o755)
        # As pip does: the service may not write byte code itself.
        subprocess.run([python, "-m", "compileall", "-q", "-s", str(self.root), str(packages)], check=False)
        if version is not None:
            init = packages / "logclf_daemon" / "__init__.py"
            init.write_text(f'{init.read_text()}\n__version__ = "{version}"\n')
        return prefix

    def wheel(self, folder: str, version: str) -> None:
        """A wheel with this daemon, as another version of it. What it needs comes with it: there is no index inside."""
        facts = f"logclf_daemon-{version}.dist-info"
        init = Path(logclf_daemon.__file__)
        texts = {
            "packages.pth": _other_packages(),
            "logclf_daemon/__init__.py": f'{init.read_text()}\n__version__ = "{version}"\n',
            f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: logclf-daemon\nVersion: {version}\n",
            f"{facts}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{facts}/entry_points.txt": "[console_scripts]\nlogclf-daemon = logclf_daemon.cli:main\n",
        }
        files = dict(_shipped_files())
        del files["logclf_daemon/__init__.py"]
        names = [*texts, *files, f"{facts}/RECORD"]
        target = self.root / folder.lstrip("/") / f"logclf_daemon-{version}-py3-none-any.whl"
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
            for name, path in files.items():
                archive.write(path, name)
            archive.writestr(names[-1], "".join(f"{name},,\n" for name in names))


_IGNORED = shutil.ignore_patterns("__pycache__")


def _other_packages() -> str:
    """For a `.pth` file: where the packages of this Python are seen inside."""
    return "".join(f"{PREFIX}-packages/{at}\n" for at in range(len(package_folders())))


def _shipped_files() -> Iterator[tuple[str, Path]]:
    """The files of this daemon by their place in an installation."""
    places = {"logclf_daemon": Path(logclf_daemon.__file__).parent}
    places |= {f"logclf_daemon/{data}": folder(data) for data in ("rules", "models", "systemd")}
    for name, place in places.items():
        for path in place.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{name}/{path.relative_to(place)}", path


def package_folders() -> list[Path]:
    """Where the packages are that this Python imports."""
    return [Path(entry) for entry in dict.fromkeys(sys.path) if entry.endswith(("site-packages", "dist-packages"))]


def _present() -> list[Path]:
    return [path for path in CONTROLLERS if path.is_dir()]


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
