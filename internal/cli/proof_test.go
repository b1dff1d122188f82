package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/internal/cli"
)

// workloads is a SPIFFE Workload API on a socket, as SPIRE's agent has it.
type workloads struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	svid   string
	denied bool
	asked  []string
}

func (w *workloads) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) != 1 { // SPIFFE Workload API section 4.1
		return nil, status.Error(codes.InvalidArgument, "security header missing")
	}
	if w.denied {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	w.asked = r.Audience
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: "spiffe://acme.example/payments", Svid: w.svid}}}, nil
}

func serveWorkloads(t *testing.T, w *workloads) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, w)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix://"+socket)
}

func svid(t *testing.T, audience string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "a"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{Subject: "spiffe://acme.example/payments", Audience: jwt.Audience{audience}, Expiry: jwt.NewNumericDate(now.Add(time.Minute)), IssuedAt: jwt.NewNumericDate(now)}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// noProof takes every proof out of the environment.
func noProof(t *testing.T) {
	t.Helper()
	for _, name := range []string{"COUNTERSIGN_ID_TOKEN", "COUNTERSIGN_ID_TOKEN_FILE", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "SPIFFE_ENDPOINT_SOCKET"} {
		t.Setenv(name, "")
	}
	before := cli.KubernetesToken(filepath.Join(t.TempDir(), "none"))
	t.Cleanup(func() { cli.KubernetesToken(before) })
}

// A workload is given its JWT-SVID by the Workload API, for this server alone.
func TestProofBySPIFFE(t *testing.T) {
	noProof(t)
	const us = "https://countersign.acme.example"
	w := &workloads{svid: svid(t, us)}
	serveWorkloads(t, w)
	if how := cli.ProofAt(); how != "spiffe" {
		t.Fatalf("found %q", how)
	}
	got, err := cli.Proof(t.Context(), "spiffe", us)
	if err != nil || got != w.svid || len(w.asked) != 1 || w.asked[0] != us {
		t.Errorf("%q for %v, %v", got, w.asked, err)
	}
	w.svid = svid(t, "https://other.example")
	if got, err := cli.Proof(t.Context(), "spiffe", us); err == nil {
		t.Errorf("an SVID for another audience is sent: %q", got)
	}
	w.denied = true
	if _, err := cli.Proof(t.Context(), "spiffe", us); err == nil {
		t.Error("no SVID, no error")
	}
}

// A pod's projected token is read anew each time, as the kubelet replaces it.
func TestProofByAProjectedToken(t *testing.T) {
	noProof(t)
	if how := cli.ProofAt(); how != "" {
		t.Fatalf("found %q in nothing", how)
	}
	file := filepath.Join(t.TempDir(), "token")
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cli.KubernetesToken(file)
		if how := cli.ProofAt(); how != "kubernetes" {
			t.Fatalf("found %q", how)
		}
		if got, err := cli.Proof(t.Context(), "kubernetes", "https://us.example"); err != nil || got != token {
			t.Errorf("%q, %v", got, err)
		}
	}
	// What a person names comes first, and a file is read as one.
	t.Setenv("COUNTERSIGN_ID_TOKEN_FILE", file)
	if how := cli.ProofAt(); how != "token" {
		t.Errorf("found %q", how)
	}
	if got, err := cli.Proof(t.Context(), "token", ""); err != nil || got != "two" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"kubernetes", "token"} {
		if _, err := cli.Proof(t.Context(), how, ""); err == nil {
			t.Errorf("%s: no token, no error", how)
		}
	}
}
