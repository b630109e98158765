package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// TestPin: the relay has no authority to vouch for it, says at start how clients can pin its certificate, and Tailscale's
// client believes that line and no other certificate.
func TestPin(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			dir := t.TempDir()
			spec := relaySpec{tls: true, host: host, certDir: dir, asDerper: true}
			first := startRelay(t, spec)
			node := first.printedNode(t)
			if node.HostName != host || !strings.HasPrefix(node.CertName, "sha256-raw:") {
				t.Fatalf("printed %+v", node)
			}
			if err := dialPinned(t, first, node); err != nil {
				t.Fatalf("by the line that was printed: %v", err)
			}

			// The same files, the same pin; new files, another one.
			first.kill()
			again := startRelay(t, spec)
			if err := dialPinned(t, again, node); err != nil {
				t.Errorf("after a restart: %v", err)
			}
			spec.certDir = t.TempDir()
			other := startRelay(t, spec)
			if err := dialPinned(t, other, node); err == nil {
				t.Error("a client takes a certificate that is not the pinned one")
			}
			if err := dialPinned(t, other, other.printedNode(t)); err != nil {
				t.Errorf("the other relay, by its own line: %v", err)
			}
			unpinned := node
			unpinned.CertName = ""
			if err := dialPinned(t, again, unpinned); err == nil {
				t.Error("a client without a pin takes a certificate that nobody vouches for")
			}
		})
	}
}

// TestPinPrintedByServe: the same of derpring's own command line, whose certificate lives in memory.
func TestPinPrintedByServe(t *testing.T) {
	skipReference(t, "has one command line")
	r := startRelay(t, relaySpec{tls: true, host: "127.0.0.1", certMode: "self-signed"})
	node := r.printedNode(t)
	if err := dialPinned(t, r, node); err != nil {
		t.Fatal(err)
	}
	node.CertName = "sha256-raw:" + strings.Repeat("00", 32)
	if err := dialPinned(t, r, node); err == nil {
		t.Error("a client takes a certificate that is not the pinned one")
	}
}

// printedNode is the derp map's entry that the relay prints at start.
func (r *relay) printedNode(t *testing.T) tailcfg.DERPNode {
	t.Helper()
	said := []byte(r.log.since(0))
	begin := bytes.Index(said, []byte(`{"Name":`))
	if begin < 0 {
		t.Fatalf("nothing is printed for the derp map:\n%s", said)
	}
	var node tailcfg.DERPNode
	if err := json.NewDecoder(bytes.NewReader(said[begin:])).Decode(&node); err != nil {
		t.Fatalf("%v in what is printed:\n%s", err, said)
	}
	return node
}

// dialPinned logs in as a client whose derp map has that node.
func dialPinned(t *testing.T, r *relay, node tailcfg.DERPNode) error {
	node.DERPPort = r.port
	// The relay of these tests listens here, whatever it is called.
	node.IPv4, node.IPv6 = "127.0.0.1", "none"
	region := &tailcfg.DERPRegion{RegionID: node.RegionID, RegionCode: "test", Nodes: []*tailcfg.DERPNode{&node}}
	client := derphttp.NewRegionClient(key.NewNode(), logger.Discard, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return client.Connect(ctx)
}
