"""Run a command as the units and containers of deploy/ do.

python -m tests.helpers.confined OUT COMMAND…

The root file system is read-only and /tmp empty; OUT alone can be written to. There are no
privileges to have or to gain, and system calls outside of systemd's @system-service are refused.
Wants to be root on Linux, with systemd's and seccomp's libraries; no container engine is needed.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
NO_NEW_PRIVS = 38


def system_calls() -> set[str]:
    """What @system-service allows, by systemd itself."""
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    groups: dict[str, list[str]] = {}
    members: list[str] = []
    for line in listed.splitlines():
        if not line.startswith(" "):
            members = groups.setdefault(line.strip(), [])
        elif not line.strip().startswith("#"):
            members.append(line.strip())

    def calls(group: str) -> set[str]:
        found = groups[group]
        return {each for each in found if each[0] != "@"}.union(
            *(calls(each) for each in found if each[0] == "@")
        )

    return calls("@system-service") | calls("@default")


def refuse_all_but(calls: set[str]) -> None:
    """Have the kernel refuse all other system calls, to this process and what it starts."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(REFUSE))
    for call in calls:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number >= 0 and seccomp.seccomp_rule_add(rules, ALLOW, number, 0):
            raise OSError(f"no rule for {call}")
    ctypes.CDLL(None).prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    if seccomp.seccomp_load(rules):
        raise OSError("the rules were not taken")


def main(out: Path, command: list[str]) -> None:
    """Become the command."""
    refuse_all_but(system_calls())
    os.chdir(out)
    os.execvp(command[0], command)


def confined(out: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command like that, to its end."""
    programs = Path(sys.executable).parent
    script = f"""
        set -e
        mount --make-rprivate /
        mount --bind "{out}" /mnt
        mount -o remount,bind,ro /
        mount -t tmpfs tmpfs /tmp
        exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
    """
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, "confined",
         sys.executable, "-m", "tests.helpers.confined", "/mnt", *command],
        env={"HOME": "/tmp", "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": "."},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
