package interop

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// TestRestart: at SIGTERM everybody is told that the relay restarts, then the connections end, and the process succeeds.
func TestRestart(t *testing.T) {
	skipReference(t, "ends at once and never sends Restarting")
	for _, tr := range []transport{plain, tls13, tls12} {
		t.Run(tr.name, func(t *testing.T) {
			r := startRelay(t, relaySpec{tls: tr.tls})
			var peers []*peer
			for n := range 6 {
				peers = append(peers, join(t, r, tr, fmt.Sprintf("peer %d", n)))
			}
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for _, p := range peers {
				m, err := p.next()
				if err != nil {
					t.Fatalf("%s waits for Restarting: %v", p.name, err)
				}
				if _, ok := m.(derp.ServerRestartingMessage); !ok {
					t.Fatalf("%s got %s; want Restarting", p.name, describe(m))
				}
			}
			for _, p := range peers {
				p.wantClosed("the relay ends")
			}
			select {
			case <-r.gone:
				if r.status != nil {
					t.Errorf("the relay ended with %v; want success", r.status)
				}
			case <-time.After(patience):
				t.Errorf("the relay still runs %v after SIGTERM", patience)
			}
		})
	}
}

// TestKeyFile: under derper's command line the key file is made when absent, has derper's form, and is kept.
func TestKeyFile(t *testing.T) {
	spec := relaySpec{asDerper: true, keyFile: filepath.Join(t.TempDir(), "made", "on", "demand", "derper.key")}
	first := relayKey(t, spec)
	content, err := os.ReadFile(spec.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	wantKeyFile(t, content, first)
	if info, err := os.Stat(spec.keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file's mode is %v, %v; want -rw-------", info.Mode(), err)
	}
	if second := relayKey(t, spec); second != first {
		t.Errorf("after a restart the relay's key is %v; want %v", second, first)
	}
	if again, err := os.ReadFile(spec.keyFile); err != nil || string(again) != string(content) {
		t.Errorf("the restart changed the key file from %q to %q, %v", content, again, err)
	}
}

// TestKeyFileOfDerper: a key file that derper wrote serves this relay, and the other way round.
func TestKeyFileOfDerper(t *testing.T) {
	path, err := derperBinary()
	if err != nil {
		t.Fatal(err)
	}
	derper := relaySpec{asDerper: true, binary: path, flavour: flavourDerper}
	ours := relaySpec{asDerper: true}
	for _, c := range []struct {
		name          string
		writes, reads relaySpec
	}{{"derper-writes", derper, ours}, {"derper-reads", ours, derper}} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "derper.key")
			c.writes.keyFile, c.reads.keyFile = file, file
			if wrote, read := relayKey(t, c.writes), relayKey(t, c.reads); wrote != read {
				t.Errorf("the first relay's key is %v, the second one's from the same file %v", wrote, read)
			}
		})
	}
}

// TestKeyFileTolerance: keys that a later release may add are passed over, and white space means nothing.
func TestKeyFileTolerance(t *testing.T) {
	private := key.NewNode()
	text, err := private.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "derper.key")
	content := fmt.Sprintf("\n{ \"Later\": [1, {}],\r\n \"PrivateKey\"\t: %q }\n", text)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := relayKey(t, relaySpec{asDerper: true, keyFile: file}); got != private.Public() {
		t.Errorf("the relay's key is %v; want that of the file, %v", got, private.Public())
	}
}

// relayKey starts a relay, asks its key and ends it.
func relayKey(t *testing.T, spec relaySpec) key.NodePublic {
	t.Helper()
	r := startRelay(t, spec)
	defer r.kill()
	return rawUpgrade(t, r, plain).server
}

func wantKeyFile(t *testing.T, content []byte, public key.NodePublic) {
	t.Helper()
	var file map[string]string
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatalf("the key file %q: %v", content, err)
	}
	if !regexp.MustCompile(`^privkey:[0-9a-f]{64}$`).MatchString(file["PrivateKey"]) || len(file) != 1 {
		t.Fatalf(`the key file says %q; want only "PrivateKey": "privkey:<64 hex digits>"`, content)
	}
	var private key.NodePrivate
	if err := private.UnmarshalText([]byte(file["PrivateKey"])); err != nil {
		t.Fatalf("the key in the file: %v", err)
	}
	if private.Public() != public {
		t.Errorf("the file holds the key of %v; the relay is %v", private.Public(), public)
	}
}

// TestPinnedCertificate: with an IP address for a name derper makes its own certificate, and clients pin it. They accept one
// certificate besides the meta certificate and no more.
func TestPinnedCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	r := startRelay(t, relaySpec{asDerper: true, tls: true, host: "127.0.0.1", certDir: dir})
	content, err := os.ReadFile(filepath.Join(dir, "127.0.0.1.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		t.Fatalf("no certificate in %q", content)
	}
	if info, err := os.Stat(filepath.Join(dir, "127.0.0.1.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key's file: %v, %v; want mode -rw-------", info, err)
	}
	node := tailcfg.DERPNode{Name: "900a", RegionID: 900, HostName: "127.0.0.1", DERPPort: r.port}
	region := func(fingerprint [sha256.Size]byte) *tailcfg.DERPRegion {
		pinned := node
		pinned.CertName = fmt.Sprintf("sha256-raw:%x", fingerprint)
		return &tailcfg.DERPRegion{RegionID: 900, RegionCode: "interop", Nodes: []*tailcfg.DERPNode{&pinned}}
	}
	alice, err := joinRegion(t, "alice", region(sha256.Sum256(block.Bytes)))
	if err != nil {
		t.Fatal(err)
	}
	alice.wantPong()
	if mallory, err := joinRegion(t, "mallory", region(sha256.Sum256([]byte("another")))); err == nil {
		t.Errorf("%s connects although the fingerprint is another", mallory.name)
	} else if errors.Is(err, errTooLate) {
		t.Error(err)
	}
}
