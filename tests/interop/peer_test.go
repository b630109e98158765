package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/types/key"
)

var (
	errRelayHungUp = errors.New("the relay had closed this connection")
	errTooLate     = errors.New("nothing came in good time")
)

// A peer is a real client that has logged in, and everything that the relay sent to it, in order. Health has an inbox of its
// own, as it comes in between whenever the relay sees fit; a peer that has no reason to expect it fails the test by getting
// any.
type peer struct {
	t         testing.TB
	name      string
	private   key.NodePrivate
	public    key.NodePublic
	client    *derphttp.Client
	conn      *watchedConn
	inbox     *inbox
	health    *inbox
	disputed  bool  // its key is in use elsewhere
	readsThen int32 // reads after the handshake that it took to connect
}

type peerOption func(*peer)

// withKey logs in with a key of the test's choice.
func withKey(private key.NodePrivate) peerOption {
	return func(p *peer) { p.private = private }
}

func withMeshKey() peerOption {
	return func(p *peer) { p.client.MeshKey = meshKey() }
}

func watching() peerOption {
	return func(p *peer) {
		p.client.MeshKey = meshKey()
		p.client.WatchConnectionChanges = true
	}
}

func asProber() peerOption {
	return func(p *peer) { p.client.IsProber = true }
}

// withDisputedKey logs in with a key that others use at the same time.
func withDisputedKey(private key.NodePrivate) peerOption {
	return func(p *peer) { p.private, p.disputed = private, true }
}

func meshKey() key.DERPMesh {
	k, err := key.ParseDERPMesh(scratch.meshKey)
	if err != nil {
		panic(err)
	}
	return k
}

// join connects a peer and returns when the relay has accepted it, so peers joined one after another are logged in one
// after another. The first frame that a client understands has to be ServerInfo.
func join(t testing.TB, r *relay, tr transport, name string, options ...peerOption) *peer {
	t.Helper()
	p, err := tryJoin(t, r, tr, name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryJoin(t testing.TB, r *relay, tr transport, name string, options ...peerOption) (*peer, error) {
	p := &peer{t: t, name: name, private: key.NewNode(), inbox: newInbox(), health: newInbox()}
	// The key has to be known before the client is made, the rest is set on the client.
	probe := &peer{client: new(derphttp.Client), private: p.private}
	for _, option := range options {
		option(probe)
	}
	p.private, p.public = probe.private, probe.private.Public()
	var err error
	if p.client, p.conn, err = tr.client(r, p.private); err != nil {
		return nil, err
	}
	for _, option := range options {
		option(p)
	}
	return p, p.start()
}

// start connects p.client and begins to collect what it receives.
func (p *peer) start() error {
	p.t.Cleanup(func() {
		p.leave()
		if !p.disputed && p.health.len() > 0 {
			p.t.Errorf("%s, whose key is nobody else's, got %d Health frames", p.name, p.health.len())
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.client.Connect(ctx); err != nil {
		return fmt.Errorf("%s connects: %w", p.name, err)
	}
	if p.conn != nil {
		p.readsThen = p.conn.readsAfterData.Load()
	}
	go func() {
		for {
			m, err := p.client.Recv()
			if err != nil {
				p.health.close(err)
				p.inbox.close(err)
				return
			}
			if _, ok := m.(derp.HealthMessage); ok {
				p.health.put(m)
			} else {
				p.inbox.put(detached(m))
			}
		}
	}()
	m, err := p.inbox.take()
	if err != nil {
		return fmt.Errorf("%s waits for ServerInfo: %w", p.name, err)
	}
	if _, ok := m.(derp.ServerInfoMessage); !ok {
		return fmt.Errorf("%s: the first frame is %s; want ServerInfo", p.name, describe(m))
	}
	return nil
}

// detached copies what a message borrows from its client.
func detached(m derp.ReceivedMessage) derp.ReceivedMessage {
	if packet, ok := m.(derp.ReceivedPacket); ok {
		packet.Data = bytes.Clone(packet.Data)
		return packet
	}
	return m
}

func (p *peer) leave() { p.client.Close() }

func (p *peer) send(to key.NodePublic, data []byte) {
	p.t.Helper()
	if err := p.client.Send(to, data); err != nil {
		p.t.Fatalf("%s sends %d bytes: %v", p.name, len(data), err)
	}
}

// next is the next thing that the relay said to p, keepalives aside.
func (p *peer) next() (derp.ReceivedMessage, error) {
	for {
		m, err := p.inbox.take()
		if _, idle := m.(derp.KeepAliveMessage); err == nil && idle {
			continue
		}
		return m, err
	}
}

// wantPacket insists that the very next thing is this packet.
func (p *peer) wantPacket(from key.NodePublic, data []byte) {
	p.t.Helper()
	m, err := p.next()
	if err != nil {
		p.t.Fatalf("%s waits for a packet of %d bytes from %s: %v", p.name, len(data), from.ShortString(), err)
	}
	packet, ok := m.(derp.ReceivedPacket)
	if !ok {
		p.t.Fatalf("%s got %s; want a packet of %d bytes from %s", p.name, describe(m), len(data), from.ShortString())
	}
	if packet.Source != from {
		p.t.Fatalf("%s got a packet from %s; want one from %s", p.name, packet.Source.ShortString(), from.ShortString())
	}
	if !bytes.Equal(packet.Data, data) {
		p.t.Fatalf("%s got other bytes than were sent: %s", p.name, difference(packet.Data, data))
	}
}

// wantGone insists that the very next thing is this notice.
func (p *peer) wantGone(who key.NodePublic, reason derp.PeerGoneReasonType) {
	p.t.Helper()
	m, err := p.next()
	if err != nil {
		p.t.Fatalf("%s waits for PeerGone(%d): %v", p.name, reason, err)
	}
	if want := (derp.PeerGoneMessage{Peer: who, Reason: reason}); m != want {
		p.t.Fatalf("%s got %s; want %s", p.name, describe(m), describe(want))
	}
}

// wantPong sends a ping and insists that its echo is the very next thing, so that nothing else was on its way.
func (p *peer) wantPong() {
	p.t.Helper()
	payload := [8]byte{'p', 'i', 'n', 'g', 1, 2, 3, byte(p.inbox.taken)}
	if err := p.client.SendPing(payload); err != nil {
		p.t.Fatalf("%s pings: %v", p.name, err)
	}
	m, err := p.next()
	if err != nil {
		p.t.Fatalf("%s waits for a pong: %v", p.name, err)
	}
	if m != derp.PongMessage(payload) {
		p.t.Fatalf("%s got %s; want %s", p.name, describe(m), describe(derp.PongMessage(payload)))
	}
}

// wantClosed insists that the relay ends the connection, whatever it says before.
func (p *peer) wantClosed(why string) {
	p.t.Helper()
	for {
		if _, err := p.next(); errors.Is(err, errTooLate) {
			p.t.Fatalf("%s is still connected; want it closed: %s", p.name, why)
		} else if err != nil {
			return
		}
	}
}

// seek passes over what the relay says until something satisfies the test. It is for watchers, who also hear of peers that
// are none of this test's business.
func (p *peer) seek(what string, fits func(derp.ReceivedMessage) bool) derp.ReceivedMessage {
	p.t.Helper()
	for {
		m, err := p.next()
		if err != nil {
			p.t.Fatalf("%s waits for %s: %v", p.name, what, err)
		}
		if fits(m) {
			return m
		}
	}
}

func describe(m derp.ReceivedMessage) string {
	switch m := m.(type) {
	case derp.ReceivedPacket:
		return fmt.Sprintf("a packet of %d bytes from %s (%x...)", len(m.Data), m.Source.ShortString(), m.Data[:min(16, len(m.Data))])
	case derp.PeerGoneMessage:
		return fmt.Sprintf("PeerGone(%s, reason %d)", m.Peer.ShortString(), m.Reason)
	case derp.PeerPresentMessage:
		return fmt.Sprintf("PeerPresent(%s, %v, flags %d)", m.Key.ShortString(), m.IPPort, m.Flags)
	default:
		return fmt.Sprintf("%T %v", m, m)
	}
}

func difference(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("length %d, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("length %d, byte %d is %#02x, want %#02x", len(got), i, got[i], want[i])
		}
	}
	return "equal"
}

// inbox is an unbounded queue with one reader: a client must keep reading whatever the test is doing.
type inbox struct {
	mu    sync.Mutex
	queue []derp.ReceivedMessage
	err   error
	bell  chan struct{}
	taken int // by the reader
}

func newInbox() *inbox { return &inbox{bell: make(chan struct{}, 1)} }

func (b *inbox) put(m derp.ReceivedMessage) {
	b.mu.Lock()
	b.queue = append(b.queue, m)
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) close(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) ring() {
	select {
	case b.bell <- struct{}{}:
	default:
	}
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// take waits for the next message; the end of the connection comes after all of them.
func (b *inbox) take() (derp.ReceivedMessage, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		b.mu.Lock()
		if len(b.queue) > 0 {
			m := b.queue[0]
			b.queue = b.queue[1:]
			b.taken++
			b.mu.Unlock()
			return m, nil
		}
		err := b.err
		b.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-b.bell:
		case <-late.C:
			return nil, errTooLate
		}
	}
}
