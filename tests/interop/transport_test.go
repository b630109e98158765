package interop

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"

	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A transport is one way of reaching a relay with the real client and with raw frames.
type transport struct {
	name string
	tls  bool
	// config is nil for plain HTTP.
	config func() *tls.Config
	// handOver gives the real client a finished TLS connection and lets it believe that it speaks plain HTTP. It then knows
	// nothing of certificates and does the ordinary upgrade, as it would behind a proxy that removes the meta certificate.
	handOver bool
	// from is the address that connections come from, where it is not to be the system's choice.
	from string
	// wrap, where a test sets it, stands between TLS and the socket.
	wrap func(net.Conn) net.Conn
}

var (
	plain = transport{name: "plain"}
	tls13 = transport{name: "tls13", tls: true, config: func() *tls.Config {
		return &tls.Config{RootCAs: scratch.pki.roots, MinVersion: tls.VersionTLS13}
	}}
	tls12 = transport{name: "tls12", tls: true, config: func() *tls.Config {
		return &tls.Config{RootCAs: scratch.pki.roots, MaxVersion: tls.VersionTLS12}
	}}
	tls13Upgrade = transport{name: "tls13-upgrade", tls: true, config: tls13.config, handOver: true}
)

// overTransports runs a test against the run's shared relays, once for each transport.
func overTransports(t *testing.T, transports []transport, f func(*testing.T, *relay, transport)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { f(t, sharedRelay(t, tr.tls), tr) })
	}
}

var (
	plainAndTLS   = []transport{plain, tls13}
	allTransports = []transport{plain, tls13, tls12, tls13Upgrade}
)

func (tr transport) dialer() *net.Dialer {
	if tr.from == "" {
		return new(net.Dialer)
	}
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tr.from)}}
}

// dial reaches the relay without any client library.
func (tr transport) dial(ctx context.Context, r *relay) (net.Conn, error) {
	conn, err := tr.dialer().DialContext(ctx, "tcp", r.addr())
	if err != nil {
		return nil, err
	}
	if tr.wrap != nil {
		conn = tr.wrap(conn)
	}
	if tr.config == nil {
		return conn, nil
	}
	config := tr.config()
	config.ServerName = r.spec.host
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// client makes the real client, not yet connected. It dials once: a second dial would be the library reconnecting behind
// the test's back, so the relay having closed the first connection shows as an error.
func (tr transport) client(r *relay, private key.NodePrivate) (*derphttp.Client, *watchedConn, error) {
	address := r.url("/derp")
	if tr.handOver {
		address = "http://" + relayHost + "/derp"
	}
	c, err := derphttp.NewClient(private, address, logger.Discard, netmon.NewStatic())
	if err != nil {
		return nil, nil, err
	}
	if tr.config != nil && !tr.handOver {
		c.TLSConfig = tr.config()
	}
	watched := new(watchedConn)
	var dialled atomic.Bool
	c.SetURLDialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errRelayHungUp
		}
		var conn net.Conn
		var err error
		if tr.handOver {
			conn, err = tr.dial(ctx, r)
		} else {
			conn, err = tr.dialer().DialContext(ctx, network, r.addr())
		}
		watched.Conn = conn
		return watched, err
	})
	return c, watched, nil
}

// watchedConn tells whether a client waited for the relay after its TLS handshake.
type watchedConn struct {
	net.Conn
	sentData       atomic.Bool
	readsAfterData atomic.Int32
}

const tlsApplicationData = 23

func (w *watchedConn) Write(p []byte) (int, error) {
	// The client's TLS 1.3 Finished is the first record that is dressed as application data; of TLS 1.2 it is the request.
	for rest := p; len(rest) >= 5; {
		if rest[0] == tlsApplicationData {
			w.sentData.Store(true)
		}
		size := 5 + int(rest[3])<<8 + int(rest[4])
		rest = rest[min(size, len(rest)):]
	}
	return w.Conn.Write(p)
}

func (w *watchedConn) Read(p []byte) (int, error) {
	if w.sentData.Load() {
		w.readsAfterData.Add(1)
	}
	return w.Conn.Read(p)
}
