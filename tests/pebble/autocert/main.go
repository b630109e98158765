// Command autocert is the part of derper that has certificates: golang.org/x/crypto/acme/autocert over its DirCache.
//
//	autocert DIR NAME                     prints the hash of the certificate in the cache; asks nobody
//	autocert DIR NAME DIRECTORY CA LISTEN gets one by TLS-ALPN-01, listening there, and prints its hash
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "autocert:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 && len(args) != 5 {
		return fmt.Errorf("give DIR NAME [DIRECTORY CA LISTEN]")
	}
	dir, name := args[0], args[1]
	// A cache miss fails at once: nobody is at this address.
	client := &acme.Client{DirectoryURL: "https://127.0.0.1:1/"}
	if len(args) == 5 {
		pem, err := os.ReadFile(args[3])
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport := located{&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
		client = &acme.Client{DirectoryURL: args[2], HTTPClient: &http.Client{Transport: transport, Timeout: 20 * time.Second}}
	}
	manager := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(name),
		Client:     client,
	}
	if len(args) == 5 {
		listener, err := tls.Listen("tcp", args[4], manager.TLSConfig())
		if err != nil {
			return err
		}
		defer listener.Close()
		go http.Serve(listener, http.NotFoundHandler())
	}
	hello := &tls.ClientHelloInfo{
		ServerName:        name,
		CipherSuites:      []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:   []tls.CurveID{tls.CurveP256},
		SupportedVersions: []uint16{tls.VersionTLS13},
	}
	cert, err := manager.GetCertificate(hello)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(cert.Certificate[0])
	fmt.Println(hex.EncodeToString(hash[:]))
	return nil
}

// located says where an order is in answers that finalize it, as Let's Encrypt does and pebble does not: without it
// autocert does not know whom to ask further.
type located struct{ http.RoundTripper }

func (l located) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err == nil && strings.Contains(req.URL.Path, "/finalize-order/") && resp.Header.Get("Location") == "" {
		resp.Header.Set("Location", strings.Replace(req.URL.String(), "/finalize-order/", "/my-order/", 1))
	}
	return resp, err
}
