"""Measures a node's agent among many services: `seaway lab` with one node, its API server filled with selectorless Services
and their EndpointSlices.

A change is one endpoint's new address, by a JSON patch. Three moments of it are taken with one clock: when the request was
sent, when another client's watch got the event, and when the kernel told of the new element in nf_tables.
"""

import base64
import fcntl
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse

NAMESPACE = "bench"
WRITERS = 4
CHANGES_A_SECOND = 100
CHANGE_SECONDS = 20
IDLE_SECONDS = 30
PORT = 8080
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
# Addresses of changed endpoints, which nothing else has: 172.20.HIGH.LOW for change number HIGH * 256 + LOW.
MARK = bytes([172, 20])
TICK = os.sysconf("SC_CLK_TCK")


class Lab:
    def __init__(self, seaway):
        self.seaway, self.name = seaway, f"bench-{os.getpid()}"
        self.folder = tempfile.TemporaryDirectory()
        self.run("up", "--nodes", "1")
        config = json.loads(subprocess.check_output(
            ["kubectl", "config", "view", "--raw", "-o", "json", "--kubeconfig", self.run("kubeconfig").strip()]))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = urllib.parse.urlparse(cluster["server"])
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        pair = os.path.join(self.folder.name, "client.pem")
        with open(pair, "wb") as file:
            for key in ("client-certificate-data", "client-key-data"):
                file.write(base64.b64decode(user[key]))
        self.tls.load_cert_chain(pair)

    def run(self, *arguments):
        return subprocess.run(
            [self.seaway, "lab", *arguments[:1], "--name", self.name, *arguments[1:]],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout

    def connect(self):
        return http.client.HTTPSConnection(self.server.hostname, self.server.port, context=self.tls)

    def agent(self):
        processes = json.loads(self.run("status", "-o", "json"))["processes"]
        return next(it["pid"] for it in processes if it["what"] == "node/node-1/agent")

    def services_part(self):
        answer = self.run(
            "exec", "node/node-1", "--", "curl", "-s", "--unix-socket", "/run/seaway/agent.sock", "http://localhost/v1/status")
        return json.loads(answer)["parts"]["services"]


def request(connection, method, path, body, kind="application/json"):
    connection.request(method, path, json.dumps(body), {"content-type": kind})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        sys.exit(f"{method} {path}: {answer.status} {text[:300].decode()}")


def in_children(count, work):
    """Runs `work(0)` … in a process each, and waits for all."""
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    if any(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children):
        sys.exit("a writer failed")


def endpoint_slice(number, endpoints):
    first = number * endpoints
    addresses = [f"10.{128 + (at >> 16 & 127)}.{at >> 8 & 255}.{at & 255}" for at in range(first, first + endpoints)]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"s{number}", "labels": {
            "kubernetes.io/service-name": f"s{number}", "endpointslice.kubernetes.io/managed-by": "bench"}},
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [it], "conditions": {"ready": True}, "nodeName": "elsewhere"} for it in addresses],
    }


def fill(lab, services, endpoints):
    request(lab.connect(), "POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})

    def write(writer):
        connection = lab.connect()
        for number in range(writer, services, WRITERS):
            request(connection, "POST", SLICES, endpoint_slice(number, endpoints))
            request(connection, "POST", SERVICES, {
                "metadata": {"name": f"s{number}"}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": PORT}]}})

    in_children(WRITERS, write)


def cpu(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid):
    """Resident now, and at the most, in MB."""
    with open(f"/proc/{pid}/status") as file:
        said = dict(line.split(":", 1) for line in file)
    return [int(said[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]


def in_step(lab, idle=2):
    """Waits until the agent has had nothing to do for a while."""
    last, since = None, time.monotonic()
    while True:
        part = lab.services_part()
        state = (part["generation"], part["syncs"])
        if part["pending"] or state != last or part["failures"]:
            last, since = state, time.monotonic()
        elif time.monotonic() - since >= idle:
            return since
        time.sleep(0.1)


def note_kernel(pid, into):
    """Notes when nf_tables in the namespace of `pid` got an element with a mark, for ever."""
    with open(f"/proc/{pid}/ns/net") as namespace:
        if libc_setns(namespace.fileno()):
            raise OSError("setns")
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    netlink.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    netlink.bind((0, 0))
    netlink.setsockopt(270, 1, 7)  # NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES
    os.write(into, b"ready\n")
    # An endpoint's address and its port.
    pattern = re.compile(re.escape(MARK) + rb"(..)" + re.escape(PORT.to_bytes(2, "big")), re.DOTALL)
    while True:
        data = netlink.recv(1 << 20)
        now = time.monotonic_ns()
        for found in pattern.findall(data):
            os.write(into, f"{int.from_bytes(found, 'big')} {now}\n".encode())


def note_events(lab, into):
    """Notes when a watch gets a slice with a mark, for ever."""
    connection = lab.connect()
    connection.request("GET", SLICES + "?limit=1")
    version = json.loads(connection.getresponse().read())["metadata"]["resourceVersion"]
    connection.request("GET", f"{SLICES}?watch=true&resourceVersion={version}")
    answer = connection.getresponse()
    os.write(into, b"ready\n")
    while True:
        line = answer.readline()
        now = time.monotonic_ns()
        for high, low in re.findall(rb'"172\.20\.(\d+)\.(\d+)"', line):
            os.write(into, f"{int(high) * 256 + int(low)} {now}\n".encode())


def libc_setns(descriptor):
    import ctypes
    return ctypes.CDLL(None).setns(descriptor, 0x40000000)


def noting(work, *arguments):
    """Starts `work` in a process; gives what reads its notes, once it is ready, and its pid."""
    read, write = os.pipe()
    # Room for all notes: they are read at the end.
    fcntl.fcntl(write, 1031, 1 << 20)  # F_SETPIPE_SZ
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments, write)
        finally:
            os._exit(1)
    os.close(write)
    notes = os.fdopen(read)
    if notes.readline() != "ready\n":
        sys.exit("an observer failed")
    return notes, pid


def first_times(notes, pid):
    """What was noted, the first time of each."""
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    times = {}
    for line in notes:
        number, at = line.split()
        times.setdefault(int(number), int(at))
    return times


def change(lab, services, count):
    """Makes changes at an even pace; when each was sent."""
    connection, sent = lab.connect(), {}
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0, begun + number / CHANGES_A_SECOND - time.monotonic()))
        sent[number] = time.monotonic_ns()
        address = f"172.20.{number >> 8}.{number & 255}"
        patch = [{"op": "replace", "path": "/endpoints/0/addresses", "value": [address]}]
        # A prime step: neighbours in time are no neighbours in any order.
        request(connection, "PATCH", f"{SLICES}/s{number * 7919 % services}", patch, "application/json-patch+json")
    return sent, count / (time.monotonic() - begun)


def shown(values):
    values = sorted(values)
    at = lambda part: values[min(len(values) - 1, int(len(values) * part))] / 1e6
    return f"p50 {at(0.5):.1f} ms, p99 {at(0.99):.1f} ms, most {values[-1] / 1e6:.1f} ms"


def measure(lab, services, endpoints):
    print(f"== {services} services × {endpoints} endpoints", flush=True)
    begun, pid = time.monotonic(), lab.agent()
    before = cpu(pid)
    fill(lab, services, endpoints)
    filled = time.monotonic()
    behind = max(0, in_step(lab) - filled)
    resident, most = memory(pid)
    print(f"filled in {filled - begun:.1f} s; the agent was in step {behind:.1f} s later and took {cpu(pid) - before:.2f} s of CPU, "
          f"{resident:.0f} MB resident, {most:.0f} MB at the most", flush=True)

    os.kill(pid, 9)
    begun = time.monotonic()
    while True:
        try:
            time.sleep(0.1)
            again = lab.agent()
            if again != pid:
                break
        except StopIteration:
            pass
    pid = again
    while True:
        try:
            lab.services_part()
            break
        except (subprocess.CalledProcessError, ValueError, KeyError):
            time.sleep(0.1)
    took = in_step(lab) - begun
    resident, most = memory(pid)
    print(f"killed and started again: in step after {took:.1f} s, {cpu(pid):.2f} s of CPU, {resident:.0f} MB resident, {most:.0f} MB at the most",
          flush=True)

    before = cpu(pid)
    time.sleep(IDLE_SECONDS)
    print(f"nothing changes for {IDLE_SECONDS} s: {cpu(pid) - before:.2f} s of CPU", flush=True)

    kernel, kernel_pid = noting(note_kernel, pid)
    events, events_pid = noting(note_events, lab)
    before = cpu(pid)
    sent, pace = change(lab, services, CHANGES_A_SECOND * CHANGE_SECONDS)
    in_step(lab)
    took = cpu(pid) - before
    kernel, events = first_times(kernel, kernel_pid), first_times(events, events_pid)
    missing = [number for number in sent if number not in kernel or number not in events]
    if missing:
        unseen = [sum(number not in seen for number in sent) for seen in (kernel, events)]
        sys.exit(f"of {len(sent)} changes {unseen[0]} were not seen in the kernel, and {unseen[1]} by the watch")
    print(f"{pace:.0f} changes a second, {len(sent)} in all: {took / len(sent) * 1000:.2f} ms of CPU each")
    print("  from the request to the kernel:", shown([kernel[it] - sent[it] for it in sent]))
    print("  from a watch's event to the kernel:", shown([kernel[it] - events[it] for it in sent]), flush=True)


def main():
    seaway, sizes = sys.argv[1], sys.argv[2:]
    print("load average", " ".join(f"{it:.1f}" for it in os.getloadavg()))
    for size in sizes:
        services, endpoints = map(int, size.split("x"))
        lab = Lab(seaway)
        try:
            measure(lab, services, endpoints)
        finally:
            lab.run("down")


main()
