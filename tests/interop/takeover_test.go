package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Relays that take over from one another while real clients log in again and again: nobody is refused, and whoever is in
// is answered.
func TestRealClientsOverTenTakeovers(t *testing.T) {
	if settings.flavour != flavourDerpring {
		t.Skip("derper gives its sockets to nobody")
	}
	for _, tr := range plainAndTLS {
		t.Run(tr.name, func(t *testing.T) { tenTakeovers(t, tr) })
	}
}

func tenTakeovers(t *testing.T, tr transport) {
	// Not a test's own directory: its path may be too long for a socket.
	dir, err := os.MkdirTemp("", "derp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	more := []string{
		"--drain-time=30", "--takeover-socket", filepath.Join(dir, "takeover"), "--key-file", filepath.Join(dir, "key"),
	}
	if tr.tls {
		more = more[:3] // the other flags of TLS have a key file
	}
	first := startRelay(t, relaySpec{tls: tr.tls, more: more})

	var logins atomic.Int64
	var stop atomic.Bool
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop.Store(true)
	for range 3 {
		clients.Go(func() {
			for !stop.Load() {
				// Connect sends ClientInfo, and the first frame behind it has to be ServerInfo.
				p, err := tryJoin(t, first, tr, "passer-by")
				if err != nil {
					t.Errorf("after %d logins: %v", logins.Load(), err)
					return
				}
				logins.Add(1)
				p.leave()
			}
		})
	}
	running := first
	for upgrade := range 10 {
		before := logins.Load()
		running = succeed(t, running)
		if logins.Load() == before {
			t.Errorf("nobody logged in during upgrade %d", upgrade)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d logins of the real client over ten takeovers, none refused", logins.Load())
}

// succeed starts a relay in the place of another, and returns when that has ended well.
func succeed(t *testing.T, old *relay) *relay {
	t.Helper()
	r := &relay{spec: old.spec, port: old.port, gone: make(chan struct{})}
	r.cmd = exec.Command(old.spec.binary, append(r.arguments(), "--takeover")...)
	r.cmd.Env, r.cmd.Dir = r.environment(), scratch.dir
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startBound(r.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.status = r.cmd.Wait()
		close(r.gone)
	}()
	t.Cleanup(r.kill)
	select {
	case <-old.gone:
	case <-r.gone:
		t.Fatalf("the new relay ended: %v\n%s", r.status, r.log.since(0))
	case <-time.After(2 * patience):
		t.Fatalf("the old relay goes on:\n%s\nand the new one:\n%s", old.log.since(0), r.log.since(0))
	}
	if old.status != nil {
		t.Fatalf("the old relay ended with %v:\n%s", old.status, old.log.since(0))
	}
	return r
}
