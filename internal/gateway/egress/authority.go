package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 7 * 24 * time.Hour
	maxLeafs = 1000
)

// authority issues the certificates by which the proxy speaks for the hosts of
// connections. Its key is derived from the master key, so that it is there at
// its first use, the same on every replica, and never stored.
type authority struct {
	key *ecdsa.PrivateKey
	now func() time.Time

	mu    sync.Mutex
	leafs map[string]*tls.Certificate
}

// newAuthority returns the authority of a seed of 32 bytes.
func newAuthority(seed []byte, now func() time.Time) (*authority, error) {
	for range 8 { // a seed is too large for the curve once in four billion
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed)
		if err == nil {
			return &authority{key: key, now: now, leafs: map[string]*tls.Certificate{}}, nil
		}
		sum := sha256.Sum256(seed)
		seed = sum[:]
	}
	return nil, fmt.Errorf("egress: the seed makes no key")
}

func (a *authority) template() *x509.Certificate {
	year := time.Date(a.now().Year()-1, 1, 1, 0, 0, 0, 0, time.UTC)
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Countersign local CA", Organization: []string{"Countersign"}},
		NotBefore: year, NotAfter: year.Add(rootLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// root returns the authority's certificate in PEM. A client that honours name
// constraints (RFC 5280, section 4.2.1.10) trusts it for these hosts alone.
func (a *authority) root(hosts []string) ([]byte, error) {
	t := a.template()
	t.PermittedDNSDomainsCritical = true
	t.PermittedDNSDomains = []string{"invalid"} // never empty: that would be any
	t.PermittedIPRanges = []*net.IPNet{{IP: net.IPv4(192, 0, 2, 255).To4(), Mask: net.CIDRMask(32, 32)}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip == nil {
			t.PermittedDNSDomains = append(t.PermittedDNSDomains, h)
		} else if four := ip.To4(); four != nil {
			t.PermittedIPRanges = append(t.PermittedIPRanges, &net.IPNet{IP: four, Mask: net.CIDRMask(32, 32)})
		} else {
			t.PermittedIPRanges = append(t.PermittedIPRanges, &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)})
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// leaf returns a certificate for one host.
func (a *authority) leaf(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leafs[host]; c != nil && a.now().Before(c.Leaf.NotAfter.Add(-leafLife/2)) {
		return c, nil
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Countersign"}}, NotBefore: a.now().Add(-time.Hour), NotAfter: a.now().Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.template(), key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if c.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if len(a.leafs) >= maxLeafs {
		clear(a.leafs)
	}
	a.leafs[host] = c
	return c, nil
}
