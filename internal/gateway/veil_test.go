package gateway_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/countersign/countersign/internal/gateway"
)

const veiled = "sk-aab-aaab-secret"

// However an answer is cut into pieces, the secret is not in it, its length is
// what it was, and everything else passes.
func FuzzHide(f *testing.F) {
	for _, s := range []string{"", "x", veiled, "a" + veiled + "b", veiled + veiled, "sk-aab-aaab-secre", "sk-aab-sk-aab-aaab-secret", strings.Repeat("sk-aab-", 9)} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, piece uint8) {
		want := bytes.ReplaceAll(body, []byte(veiled), []byte(strings.Repeat("*", len(veiled))))
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(body), "bytes": iotest.OneByteReader(bytes.NewReader(body)), "halves": iotest.HalfReader(bytes.NewReader(body)),
			"end with data": iotest.DataErrReader(bytes.NewReader(body)),
		} {
			resp := &http.Response{Header: http.Header{"X-Echo": {"Bearer " + veiled}}, Body: io.NopCloser(r)}
			gateway.Hide(resp, veiled)
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{resp.Body}, make([]byte, int(piece)+1)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s: %q became %q, want %q", name, body, got.Bytes(), want)
			}
			if strings.Contains(resp.Header.Get("X-Echo"), veiled) {
				t.Errorf("%s: a header shows it", name)
			}
		}
	})
}

// What cannot be the beginning of the secret is not held back.
func TestHideDoesNotDelay(t *testing.T) {
	r, w := io.Pipe()
	resp := &http.Response{Body: r}
	gateway.Hide(resp, veiled)
	go w.Write([]byte("data: 1\n\n"))
	b := make([]byte, 100)
	if n, err := resp.Body.Read(b); err != nil || string(b[:n]) != "data: 1\n\n" {
		t.Errorf("%q %v", b[:n], err)
	}
	w.Close()
}
