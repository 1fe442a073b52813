"""Measures CNI plugins as a container runtime calls them: a process for each call, its configuration on standard input.

Started by `run` in a network and a mount namespace of its own. Wall time is from before the spawn to after the wait;
CPU time is the plugin's with that of the plugins it runs, as wait4 tells it.
"""

import ctypes
import json
import os
import statistics
import sys
import time

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def new_namespace():
    """A fresh network namespace, as a descriptor; the caller stays where it is."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    check(libc.unshare(CLONE_NEWNET))
    made = os.open("/proc/self/ns/net", os.O_RDONLY)
    check(libc.setns(here, CLONE_NEWNET))
    os.close(here)
    return made


class Plugin:
    def __init__(self, name, program, config, path):
        self.name, self.program, self.path = name, program, path
        self.config = os.memfd_create("config")
        os.write(self.config, json.dumps(config).encode())
        self.wall = {"ADD": [], "DEL": []}
        self.cpu = {"ADD": [], "DEL": []}

    def call(self, command, container, namespace):
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_PATH": self.path,
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{namespace}", "PATH": "/usr/sbin:/usr/bin",
        }
        os.lseek(self.config, 0, os.SEEK_SET)
        answer = os.memfd_create("answer")
        actions = [
            (os.POSIX_SPAWN_DUP2, self.config, 0),
            (os.POSIX_SPAWN_DUP2, answer, 1),
        ]
        begun = time.perf_counter()
        pid = os.posix_spawn(self.program, [self.program], env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        took = time.perf_counter() - begun
        if status != 0:
            os.lseek(answer, 0, os.SEEK_SET)
            sys.exit(f"{self.name}: {command}: {os.read(answer, 4096).decode()}")
        os.close(answer)
        self.wall[command].append(took * 1000)
        self.cpu[command].append((usage.ru_utime + usage.ru_stime) * 1000)


def p99(values):
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def main():
    seaway, rounds = sys.argv[1], int(sys.argv[2])
    # In memory, in this mount namespace alone: gone when this ends.
    data = "/var/lib"
    check(libc.mount(b"tmpfs", data.encode(), b"tmpfs", 0, None))
    os.mkdir(f"{data}/bin")
    # The binary knows by its name that it is called as a plugin.
    os.symlink(seaway, f"{data}/bin/seaway")

    def ipam(kind, subnet):
        return {"type": kind, "ranges": [[{"subnet": subnet}]], "dataDir": f"{data}/{kind}"}

    ours = Plugin("seaway", f"{data}/bin/seaway", {
        "cniVersion": "1.0.0", "name": "seaway", "type": "seaway", "mtu": 1450, "ipam": ipam("seaway", "10.244.1.0/24"),
    }, f"{data}/bin")
    peers = Plugin("bridge + host-local", "/usr/lib/cni/bridge", {
        "cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "cni0", "mtu": 1450, "isDefaultGateway": True,
        "ipam": ipam("host-local", "10.245.1.0/24"),
    }, "/usr/lib/cni")
    plugins = [ours, peers]
    # The first call of each makes its directories, and the bridge; it is not counted.
    for counted in [False, True]:
        for n in range(rounds if counted else 1):
            # Turn about who goes first.
            for plugin in plugins if n % 2 == 0 else reversed(plugins):
                namespace = new_namespace()
                plugin.call("ADD", f"pod{n}", namespace)
                plugin.call("DEL", f"pod{n}", namespace)
                os.close(namespace)
        if not counted:
            for plugin in plugins:
                for times in [*plugin.wall.values(), *plugin.cpu.values()]:
                    times.clear()

    print(f"CNI, {rounds} calls each, in turn (milliseconds)")
    print(f"{'':28}{'median':>9}{'p99':>9}{'CPU median':>12}")
    for command in ["ADD", "DEL"]:
        for plugin in plugins:
            wall, cpu = plugin.wall[command], statistics.median(plugin.cpu[command])
            print(f"{command} {plugin.name:24}{statistics.median(wall):9.2f}{p99(wall):9.2f}{cpu:12.2f}")
        wall = [statistics.median(plugin.wall[command]) for plugin in plugins]
        cpu = [statistics.median(plugin.cpu[command]) for plugin in plugins]
        print(f"{command} ratio, peer to seaway     {wall[1] / wall[0]:8.1f}x{'':9}{cpu[1] / cpu[0]:11.1f}x")


main()
