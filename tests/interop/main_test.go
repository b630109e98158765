// Package interop judges a DERP relay by the clients that people run: Tailscale's own derphttp, Go's TLS, OpenSSL, and raw
// frames where a client library would not let us be rude enough.
//
// The same tests run against Tailscale's derper, which shows that a test asks for what the protocol really is, and against
// derpring. Settings come from the environment:
//
//	INTEROP_RELAY    the relay's binary; without it derper is built and tested
//	INTEROP_FLAVOUR  "derper" (default) or "derpring": which command line the binary understands
//	INTEROP_BACKEND  derpring only: "uring" or "epoll"
//	INTEROP_WORKERS  derpring only: number of workers
//	INTEROP_DERPER   derper's binary, for tests that pass files between the two; built when needed and not given
//	INTEROP_CACHE    a folder that keeps npm's packages between runs; without it they are downloaded
//	INTEROP_PATIENCE how long to wait for what must happen; a relay that fails often is tried out faster with "2s"
//
// Tailscale's client speaks WebSocket only where it was built for it: go test -tags ts_debug_websockets.
//
// The names do not begin with DERPRING_, because the relay reads and checks every variable that does.
package interop

import (
	"crypto/rand"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen. It is long because a loaded machine is slow, and because no
// test measures time: a relay that keeps its promise never comes near it.
var patience = 20 * time.Second

const (
	flavourDerper   = "derper"
	flavourDerpring = "derpring"
)

var settings struct {
	flavour string
	relay   string
	backend string
	workers string
}

// scratch holds what every relay of this run shares.
var scratch struct {
	dir         string
	meshKey     string // 64 hex digits
	meshKeyFile string
	pki         *pki
}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "derp-interop-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	scratch.dir = dir

	if given := os.Getenv("INTEROP_PATIENCE"); given != "" {
		if patience, err = time.ParseDuration(given); err != nil {
			return 1, err
		}
	}
	settings.flavour = envOr("INTEROP_FLAVOUR", flavourDerper)
	settings.relay = os.Getenv("INTEROP_RELAY")
	settings.backend = envOr("INTEROP_BACKEND", "auto")
	settings.workers = envOr("INTEROP_WORKERS", "1")
	switch settings.flavour {
	case flavourDerper:
		if settings.relay == "" {
			if settings.relay, err = derperBinary(); err != nil {
				return 1, err
			}
		}
	case flavourDerpring:
		if settings.relay == "" {
			return 1, fmt.Errorf("INTEROP_FLAVOUR=%s needs INTEROP_RELAY", settings.flavour)
		}
	default:
		return 1, fmt.Errorf("INTEROP_FLAVOUR is %q; want %q or %q", settings.flavour, flavourDerper, flavourDerpring)
	}

	var key [32]byte
	rand.Read(key[:])
	scratch.meshKey = hex.EncodeToString(key[:])
	scratch.meshKeyFile = filepath.Join(dir, "mesh.key")
	if err := os.WriteFile(scratch.meshKeyFile, []byte(scratch.meshKey+"\n"), 0o600); err != nil {
		return 1, err
	}
	if scratch.pki, err = newPKI(filepath.Join(dir, "certs")); err != nil {
		return 1, err
	}

	defer stopSharedRelays()
	return m.Run(), nil
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// derperBinary is the reference relay, built at most once per run.
var derperBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("INTEROP_DERPER"); path != "" {
		return path, nil
	}
	path := filepath.Join(scratch.dir, "derper")
	out, err := exec.Command("go", "build", "-o", path, "tailscale.com/cmd/derper").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building derper: %v\n%s", err, out)
	}
	return path, nil
})

func testingReference() bool { return settings.flavour == flavourDerper }

// skipReference leaves a test out for derper, which is known to fail it. The reason says what derper does instead, so that
// the list of skipped tests reads as the list of differences.
func skipReference(t *testing.T, reason string) {
	t.Helper()
	if testingReference() {
		t.Skipf("derper: %s", reason)
	}
}

// leaveOut skips a test that this machine cannot run, and says so even where skipped tests are not listed.
func leaveOut(t *testing.T, reason string) {
	t.Helper()
	fmt.Fprintf(os.Stderr, "LEFT OUT: %s: %s\n", t.Name(), reason)
	t.SkipNow()
}
