package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// relaySpec says which relay a test wants. The zero value is plain HTTP with a key that lives as long as the process.
type relaySpec struct {
	tls     bool
	host    string // certificate name; relayHost unless given
	certDir string // the run's own certificates unless given
	// certMode is manual unless given; derpring's own command line only.
	certMode string
	keyFile  string // a new file unless given

	// asDerper starts derpring under derper's command line, where files, debug pages and defaults are derper's.
	asDerper bool
	// flags are more of derper's, which needs asDerper.
	flags []string
	// stun is where derpring listens for STUN, if anywhere; derper's flags say it for derper. With port 0 it chooses, and
	// says so in its start block: see stunAddrs.
	stun []string
	// stunAny lets any client ask, and not only Tailscale's; derper does not know that.
	stunAny bool
	// ownFlags are derpring's own, for `serve`; they say where it has its admin pages and plain HTTP beside TLS.
	ownFlags []string
	// more are derpring's own flags, which needs that it is not asDerper.
	more []string
	// adminSocket is where derpring has its admin pages, if anywhere; derper has none.
	adminSocket string
	// binary and flavour are the run's unless given.
	binary, flavour string
}

type relay struct {
	spec relaySpec
	port int
	cmd  *exec.Cmd
	log  tail
	// gone is closed once the process has ended and status is set.
	gone   chan struct{}
	status error
}

func (r *relay) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// url is the relay's address by name; whoever uses it must dial addr, as the name resolves nowhere.
func (r *relay) url(path string) string {
	scheme := "http"
	if r.spec.tls {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s%s", scheme, net.JoinHostPort(r.spec.host, strconv.Itoa(r.port)), path)
}

// startRelay runs a relay for one test and ends it with the test.
func startRelay(t *testing.T, spec relaySpec) *relay {
	t.Helper()
	r, err := launch(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			t.Logf("the relay's last output:\n%s", r.log.since(0))
		}
	})
	return r
}

var shared struct {
	sync.Mutex
	plain, tls *relay
}

// sharedRelay is the run's common relay. One that died during an earlier test is replaced, so that each test speaks for
// itself; the test that was running when it died fails.
func sharedRelay(t *testing.T, overTLS bool) *relay {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	slot := &shared.plain
	if overTLS {
		slot = &shared.tls
	}
	if *slot == nil || (*slot).dead() {
		r, err := launch(relaySpec{tls: overTLS})
		if err != nil {
			t.Fatal(err)
		}
		*slot = r
	}
	r := *slot
	before := r.log.position()
	t.Cleanup(func() {
		if r.dead() {
			t.Errorf("the relay died during this test: %v", r.status)
		}
		if t.Failed() {
			t.Logf("the relay's output during this test:\n%s", r.log.since(before))
		}
	})
	return r
}

func stopSharedRelays() {
	shared.Lock()
	defer shared.Unlock()
	for _, r := range []*relay{shared.plain, shared.tls} {
		if r != nil {
			r.kill()
		}
	}
}

// launch starts a relay and returns once it answers. The port is free when it is chosen but nobody holds it for us, so a
// start that loses it is tried again elsewhere.
func launch(spec relaySpec) (*relay, error) {
	if spec.binary == "" {
		spec.binary, spec.flavour = settings.relay, settings.flavour
	}
	if spec.host == "" {
		spec.host = relayHost
	}
	if spec.certDir == "" {
		spec.certDir = scratch.pki.dir
	}
	if spec.certMode == "" {
		spec.certMode = "manual"
	}
	if spec.keyFile == "" {
		dir, err := os.MkdirTemp(scratch.dir, "key-")
		if err != nil {
			return nil, err
		}
		spec.keyFile = filepath.Join(dir, "derper.key")
	}
	var last error
	for range 3 {
		r := &relay{spec: spec, gone: make(chan struct{})}
		var err error
		if r.port, err = freePort(); err != nil {
			return nil, err
		}
		r.cmd = exec.Command(spec.binary, r.arguments()...)
		r.cmd.Env = r.environment()
		r.cmd.Dir = scratch.dir
		r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
		r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := startBound(r.cmd); err != nil {
			return nil, err
		}
		go func() {
			r.status = r.cmd.Wait()
			close(r.gone)
		}()
		if last = r.awaitReady(); last == nil {
			return r, nil
		}
		r.kill()
		last = fmt.Errorf("%s: %w\ncommand line: %q\nits output:\n%s", spec.flavour, last, r.cmd.Args, r.log.since(0))
	}
	return nil, last
}

func (r *relay) arguments() []string {
	listen := r.addr()
	if r.spec.flavour == flavourDerper || r.spec.asDerper {
		args := []string{
			"-a", listen, "-c", r.spec.keyFile, "-mesh-psk-file", scratch.meshKeyFile,
			"-stun=false", "-http-port=-1",
		}
		if r.spec.tls {
			args = append(args, "-hostname", r.spec.host, "-certmode", "manual", "-certdir", r.spec.certDir)
		}
		args = append(args, r.spec.flags...)
		if r.spec.asDerper && r.spec.flavour == flavourDerpring {
			args = append([]string{"derper"}, args...)
		}
		return args
	}
	args := []string{
		"serve", "--listen", listen, "--backend", settings.backend, "--workers", settings.workers,
		"--mesh-key-file", scratch.meshKeyFile,
	}
	args = append(args, "--stun-listen", strings.Join(r.spec.stun, ","))
	if r.spec.stunAny {
		args = append(args, "--stun-any")
	}
	args = append(args, r.spec.more...)
	if !r.spec.tls {
		return append(append(args, "--dev"), r.spec.ownFlags...)
	}
	args = append(args,
		"--hostname", r.spec.host, "--cert-mode", r.spec.certMode, "--cert-dir", r.spec.certDir, "--key-file", r.spec.keyFile)
	if r.spec.ownFlags != nil {
		return append(args, r.spec.ownFlags...)
	}
	return append(args, "--http-listen", "", "--admin-listen", "")
}

// environment is made from nothing: both relays read variables that a developer's shell may hold.
func (r *relay) environment() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + scratch.dir}
	if r.spec.flavour == flavourDerpring && r.spec.asDerper {
		// derper's command line has no words for these.
		env = append(env, "DERPRING_BACKEND="+settings.backend, "DERPRING_WORKERS="+settings.workers)
		if r.spec.adminSocket != "" {
			env = append(env, "DERPRING_ADMIN_LISTEN=unix:"+r.spec.adminSocket)
		}
	}
	return env
}

func (r *relay) awaitReady() error {
	client := &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: r.spec.host},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, r.addr())
			},
		},
	}
	deadline := time.Now().Add(patience)
	for {
		resp, err := client.Get(r.url("/derp/probe"))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("/derp/probe answers %s", resp.Status)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %v: %w", patience, err)
		}
		select {
		case <-r.gone:
			return fmt.Errorf("ended before it was ready: %v", r.status)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (r *relay) dead() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

func (r *relay) kill() {
	r.cmd.Process.Kill()
	<-r.gone
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startBound starts a process that dies with ours. The kernel ties that to the thread that forked, not to the process, so
// one thread that never ends does all the forking.
func startBound(cmd *exec.Cmd) error {
	forker.once.Do(func() {
		forker.jobs = make(chan func())
		go func() {
			runtime.LockOSThread()
			for job := range forker.jobs {
				job()
			}
		}()
	})
	done := make(chan error)
	forker.jobs <- func() { done <- cmd.Start() }
	return <-done
}

var forker struct {
	once sync.Once
	jobs chan func()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu    sync.Mutex
	buf   []byte
	total int // bytes ever written
}

const tailBytes = 4 << 10

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total += len(p)
	w.buf = append(w.buf, p...)
	if len(w.buf) > 2*tailBytes {
		w.buf = append(w.buf[:0], w.buf[len(w.buf)-tailBytes:]...)
	}
	return len(p), nil
}

func (w *tail) position() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// since is what was written after that position, or the end of it.
func (w *tail) since(position int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.buf[max(0, len(w.buf)-min(tailBytes, w.total-position)):])
}
