package interop

import (
	"fmt"
	"strings"
	"testing"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// TestWatch: a watcher is told of everybody who is there, itself included, and then of each who comes and goes, with address
// and flags.
func TestWatch(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		early := []*peer{join(t, r, tr, "alice"), join(t, r, tr, "bob"), join(t, r, tr, "carol")}
		var watchers []*peer
		for n := range 3 {
			w := join(t, r, tr, fmt.Sprintf("watcher %d", n), watching())
			for _, earlier := range watchers {
				wantPresent(t, earlier, w, derp.PeerPresentIsMeshPeer)
			}
			watchers = append(watchers, w)
			missing := map[key.NodePublic]*peer{w.public: w}
			for _, p := range early {
				missing[p.public] = p
			}
			for len(missing) > 0 {
				m := w.seek("those who were there", func(m derp.ReceivedMessage) bool {
					present, ok := m.(derp.PeerPresentMessage)
					return ok && missing[present.Key] != nil
				}).(derp.PeerPresentMessage)
				flags := derp.PeerPresentFlags(derp.PeerPresentIsRegular)
				if m.Key == w.public {
					flags = derp.PeerPresentIsMeshPeer
				}
				checkPresent(t, m, missing[m.Key], flags)
				delete(missing, m.Key)
			}
		}

		dave := join(t, r, tr, "dave")
		for _, w := range watchers {
			wantPresent(t, w, dave, derp.PeerPresentIsRegular)
		}
		for _, p := range []*peer{dave, early[1], watchers[0]} {
			p.leave()
			for _, w := range watchers[1:] {
				w.seek(p.name+"'s departure", isGone(p.public))
			}
		}
		back := join(t, r, tr, "dave again", withKey(dave.private))
		for _, w := range watchers[1:] {
			wantPresent(t, w, back, derp.PeerPresentIsRegular)
		}
	})
}

// TestWatchFlags: prober, mesh peer, and a client that would rather be elsewhere; "regular" is only for none of these.
func TestWatchFlags(t *testing.T) {
	r := sharedRelay(t, true)
	watcher := join(t, r, tls13, "watcher", watching())
	wantPresent(t, watcher, join(t, r, tls13, "regular"), derp.PeerPresentIsRegular)
	wantPresent(t, watcher, join(t, r, tls13, "prober", asProber()), derp.PeerPresentIsProber)
	wantPresent(t, watcher, join(t, r, tls13, "mesh", withMeshKey()), derp.PeerPresentIsMeshPeer)
	wantPresent(t, watcher, join(t, r, tls13, "mesh prober", withMeshKey(), asProber()),
		derp.PeerPresentIsMeshPeer|derp.PeerPresentIsProber)

	// A region whose first node is down: the client goes to the second and says so.
	down, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	region := &tailcfg.DERPRegion{RegionID: 900, RegionCode: "interop", Nodes: []*tailcfg.DERPNode{
		{Name: "900a", RegionID: 900, HostName: relayHost, IPv4: "127.0.0.1", IPv6: "none", DERPPort: down},
		{Name: "900b", RegionID: 900, HostName: relayHost, IPv4: "127.0.0.1", IPv6: "none", DERPPort: r.port},
	}}
	displaced, err := joinRegion(t, "displaced", region)
	if err != nil {
		t.Fatal(err)
	}
	wantPresent(t, watcher, displaced, derp.PeerPresentNotIdeal)
	region.Nodes = region.Nodes[1:]
	content, err := joinRegion(t, "content", region)
	if err != nil {
		t.Fatal(err)
	}
	wantPresent(t, watcher, content, derp.PeerPresentIsRegular)
}

// joinRegion connects as a Tailscale node does: by a region of the DERP map, checking the certificate.
func joinRegion(t *testing.T, name string, region *tailcfg.DERPRegion) (*peer, error) {
	p := &peer{t: t, name: name, private: key.NewNode(), inbox: newInbox(), health: newInbox()}
	p.public = p.private.Public()
	p.client = derphttp.NewRegionClient(p.private, logger.Discard, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	p.client.TLSConfig = tls13.config()
	return p, p.start()
}

// TestWatchTwice: asking again repeats the flood.
func TestWatchTwice(t *testing.T) {
	r := sharedRelay(t, false)
	alice := join(t, r, plain, "alice")
	s := rawLogin(t, r, plain, meshInfo())
	for range 2 {
		s.write(frame(derp.FrameWatchConns))
		missing := map[key.NodePublic]bool{alice.public: true, s.public: true}
		for len(missing) > 0 {
			kind, payload := s.read()
			if kind != derp.FramePeerPresent {
				continue
			}
			if len(payload) != 51 {
				t.Fatalf("PeerPresent has %d bytes; want 51: key, address, port, flags", len(payload))
			}
			delete(missing, publicKey(payload[:32]))
		}
	}
}

// TestWatchDuplicates: each connection of a key is announced, its end only when the last one is gone.
func TestWatchDuplicates(t *testing.T) {
	r := sharedRelay(t, false)
	watcher := join(t, r, plain, "watcher", watching())
	wantPresent(t, watcher, watcher, derp.PeerPresentIsMeshPeer) // it is watching from here on
	first := join(t, r, plain, "first")
	wantPresent(t, watcher, first, derp.PeerPresentIsRegular)
	second := join(t, r, plain, "second", withKey(first.private))
	wantPresent(t, watcher, second, derp.PeerPresentIsRegular)
	first.leave()
	probe := join(t, r, plain, "probe")
	watcher.seek("the probe", func(m derp.ReceivedMessage) bool {
		if isGone(first.public)(m) {
			t.Fatal("the watcher was told that a key is gone which still has a connection")
		}
		present, ok := m.(derp.PeerPresentMessage)
		return ok && present.Key == probe.public
	})
	second.leave()
	watcher.seek("the departure of the last", isGone(first.public))
}

// TestClosePeer: all connections of the key are closed, and nobody else's.
func TestClosePeer(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		mesh := join(t, r, tr, "mesh", withMeshKey())
		alice, bob := join(t, r, tr, "alice"), join(t, r, tr, "bob")
		twin := join(t, r, tr, "alice's twin", withKey(alice.private))
		data := packet(1, 1, 100)
		twin.send(bob.public, data)
		bob.wantPacket(alice.public, data)

		if err := mesh.client.ClosePeer(key.NewNode().Public()); err != nil {
			t.Fatal(err)
		}
		mesh.wantPong() // an unknown key is no error
		if err := mesh.client.ClosePeer(alice.public); err != nil {
			t.Fatal(err)
		}
		alice.wantClosed("its key was named by ClosePeer")
		twin.wantClosed("its key was named by ClosePeer")
		bob.wantGone(alice.public, derp.PeerGoneReasonDisconnected)
		bob.wantPong()
		mesh.wantPong()
	})
}

// TestForwardPacket: another relay of the region hands over its clients' packets.
func TestForwardPacket(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		mesh, alice := join(t, r, tr, "mesh", withMeshKey()), join(t, r, tr, "alice")
		faraway := key.NewNode().Public()
		for n, size := range sizes {
			data := packet(1, uint64(n), size)
			if err := mesh.client.ForwardPacket(faraway, alice.public, data); err != nil {
				t.Fatal(err)
			}
			alice.wantPacket(faraway, data)
		}
		unknown := key.NewNode().Public()
		mesh.client.ForwardPacket(faraway, unknown, packet(1, 1, 100))
		mesh.wantPong()
		mesh.client.ForwardPacket(faraway, unknown, disco(1, 1, 100))
		mesh.wantGone(unknown, derp.PeerGoneReasonNotHere)
	})
}

// TestMeshRights: without the mesh key, or with a wrong one, what needs it ends the connection. The login itself is fine.
func TestMeshRights(t *testing.T) {
	overTransports(t, plainAndTLS, func(t *testing.T, r *relay, tr transport) {
		victim := join(t, r, tr, "victim")
		wrong := fmt.Sprintf(`{"version":2,"meshKey":%q}`, strings.Repeat("5a", 32))
		nobody, data := make([]byte, 32), packet(1, 1, 100)
		for _, info := range []string{ordinaryInfo, wrong} {
			for what, forbidden := range map[string][]byte{
				"WatchConns":    frame(derp.FrameWatchConns),
				"ClosePeer":     frame(derp.FrameClosePeer, victim.public.AppendTo(nil)),
				"ForwardPacket": frame(derp.FrameForwardPacket, nobody, victim.public.AppendTo(nil), data),
			} {
				s := rawLogin(t, r, tr, info)
				s.wantAlive()
				s.write(forbidden)
				s.wantClosed(what + " without mesh rights")
			}
		}
		victim.wantPong() // neither closed nor written to
	})
}

func wantPresent(t *testing.T, watcher, who *peer, flags derp.PeerPresentFlags) {
	t.Helper()
	m := watcher.seek(who.name+"'s arrival", func(m derp.ReceivedMessage) bool {
		present, ok := m.(derp.PeerPresentMessage)
		return ok && present.Key == who.public
	})
	checkPresent(t, m.(derp.PeerPresentMessage), who, flags)
}

func checkPresent(t *testing.T, got derp.PeerPresentMessage, who *peer, flags derp.PeerPresentFlags) {
	t.Helper()
	address, err := who.client.LocalAddr()
	if err != nil {
		t.Fatalf("%s's own address: %v", who.name, err)
	}
	if want := (derp.PeerPresentMessage{Key: who.public, IPPort: address, Flags: flags}); got != want {
		t.Errorf("%s is announced as %s; want %s", who.name, describe(got), describe(want))
	}
}
