package interop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const relayHost = "derp.test"

// pki is a root, an intermediate and a leaf for relayHost. The intermediate is there because a relay has to send it and
// still put its own meta certificate after it.
type pki struct {
	dir   string // holds derp.test.crt and derp.test.key
	roots *x509.CertPool
	root  *x509.Certificate
	leaf  *x509.Certificate
	inter *x509.Certificate
}

func newPKI(dir string) (*pki, error) {
	root, rootKey, err := issue("interop root", nil, nil)
	if err != nil {
		return nil, err
	}
	inter, interKey, err := issue("interop intermediate", root, rootKey)
	if err != nil {
		return nil, err
	}
	leaf, leafKey, err := issue(relayHost, inter, interKey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, err
	}
	chain := append(pemBlock("CERTIFICATE", leaf.Raw), pemBlock("CERTIFICATE", inter.Raw)...)
	if err := os.WriteFile(filepath.Join(dir, relayHost+".crt"), chain, 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, relayHost+".key"), pemBlock("PRIVATE KEY", der), 0o600); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &pki{dir: dir, roots: roots, root: root, leaf: leaf, inter: inter}, nil
}

// issue makes a certificate authority, or the leaf if name is relayHost. Without a parent it signs itself.
func issue(name string, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if name == relayHost {
		template.IsCA = false
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.DNSNames = []string{name}
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
