"""Programs that are started for a check: where they listen, what they print, and that they end with it."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request


class Failed(Exception):
    """The check cannot go on; the text says why."""


def free_ports(count):
    """Ports that nobody listens on now. They are held together, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Program:
    """A program whose output goes to a file, and which is ended when the block is left."""

    def __init__(self, command, log):
        self.command = [str(word) for word in command]
        self.log = log
        try:
            with open(log, "wb") as out:
                self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        except OSError as error:
            raise Failed(f"{self.command[0]} does not start: {error}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def tail(self, lines=20):
        with open(self.log, encoding="utf-8", errors="replace") as text:
            return "".join(text.readlines()[-lines:])

    def await_answer(self, url, patience=60):
        """Until `url` is answered with 200."""
        end = time.monotonic() + patience
        problem = "no answer"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed(f"{self.command[0]} ended with {self.process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError) as error:
                problem = error
            time.sleep(0.1)
        raise Failed(f"{url}: {problem} after {patience} s; {self.command[0]} said:\n{self.tail()}")

    def status(self, patience):
        """How it ended by itself."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{' '.join(self.command)} has not ended after {patience:.0f} s:\n{self.tail()}") from error

    def stop(self, patience=30):
        """How it ended after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.status(patience)


def output(command):
    """Status and everything printed."""
    try:
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from error
    return done.returncode, done.stdout


class Repeated:
    """Calls `act` again and again on a thread of its own, until the block is left."""

    def __init__(self, act, pause):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(act, pause), daemon=True)

    def _run(self, act, pause):
        while not self.over.wait(pause):
            act()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(timeout=30)
