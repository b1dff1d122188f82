package inspection_test

import (
	"crypto/sha256"
	"encoding/json/v2"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/inspection"
)

// prompt returns a chat request of about n bytes of prose that is full of the
// words that rules begin with.
func prompt(n int) []byte {
	return chat(n, `the key to a token is the password of the secret keeper please ask for your access to the account and
		check whether the api key "openai" was rotated, the session token expired: passwords and secrets are kept in a vault at https://vault.example.org/ui
		customer order invoice payment reply ticket describe password: token= basically bearer authorization skeleton private public credentials`)
}

// ordinary returns a chat request of about n bytes of this project's own documentation.
func ordinary(tb testing.TB, n int) []byte {
	tb.Helper()
	var text strings.Builder
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(names) == 0 {
		tb.Fatal("no documentation", err)
	}
	for i := 0; text.Len() < n; i++ {
		b, err := os.ReadFile(names[i%len(names)])
		if err != nil {
			tb.Fatal(err)
		}
		text.Write(b[:min(len(b), n-text.Len())])
	}
	return request(text.String())
}

func chat(n int, vocabulary string) []byte {
	words := strings.Fields(vocabulary)
	r := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for i := 0; text.Len() < n; i++ {
		text.WriteString(words[r.IntN(len(words))])
		text.WriteByte(" \n"[min(1, i%12/11)])
	}
	return request(text.String())
}

func request(text string) []byte {
	b, _ := json.Marshal(map[string]any{"model": "m", "messages": []any{map[string]string{"role": "user", "content": text}}})
	return b
}

// run measures f over size bytes, in bytes per second and in bytes per second
// of this thread's own processor time: on a busy machine only the latter says something.
func run(b *testing.B, size int, f func()) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := cpu(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(size)*float64(b.N)/1e6/(cpu(b)-before).Seconds(), "MB/cpu-s")
}

func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(1 /* RUSAGE_THREAD */, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkInspect is every scanner over prompts, beside SHA-256 of the same bytes.
func BenchmarkInspect(b *testing.B) {
	s := inspection.New()
	for i := range 100 {
		s.Known().Set(fmt.Sprint("secret", i), []byte(fill(uint64(1000+i), 48, letters)))
	}
	for _, size := range []int{2 << 10, 32 << 10, 1 << 20} {
		for name, text := range map[string][]byte{"ordinary": ordinary(b, size), "telling": prompt(size)} {
			b.Run(fmt.Sprintf("%s/size=%dK", name, size>>10), func(b *testing.B) {
				run(b, len(text), func() { s.Inspect(text, inspection.All) })
			})
		}
	}
	text := ordinary(b, 32<<10)
	b.Run("sha256/size=32K", func(b *testing.B) { run(b, len(text), func() { sha256.Sum256(text) }) })
}

func BenchmarkRedact(b *testing.B) {
	for _, known := range []int{0, 1000} {
		s := inspection.New()
		for i := range known {
			s.Known().Set(fmt.Sprint("secret", i), []byte(fill(uint64(1000+i), 48, letters)))
		}
		for _, size := range []int{2 << 10, 32 << 10, 1 << 20} {
			text := prompt(size)
			if out := s.Redact(text); &out[0] != &text[0] {
				b.Fatalf("something was found: %+v", s.Scan(text))
			}
			b.Run(fmt.Sprintf("known=%d/size=%dK", known, size>>10), func(b *testing.B) {
				run(b, len(text), func() { s.Redact(text) })
			})
		}
	}
}

// hostile feeds what makes matchers work hardest.
var hostile = map[string]string{
	"pem": "-----BEGIN PRIVATE KEY-----", "password": "password=", "quotes": `password="x`, "url": "://a:", "aws": "AKIAABCDEFGHIJKLMNOP ",
	"bearer": "Bearer ", "jwt": "eyJhbGci.", "prefix": "sk-proj-", "escapes": `\\\\\\\\\\\\\\\n`, "percent": "%25%32%35%25", "markers": "[redacted:",
	"mail": "a@", "digits": "1 2-", "iban": "DE89", "base64": "QUFBQUFBQUFBQUFBQUFB", "images": "![a](http", "ignore": "ignore all ", "curl": "curl -u ",
	"telegram": "telegram:A", "wide": "\u200b\u0430a", "tags": "<img src=", "one line": "A", "style": "style=display:none",
}

func BenchmarkHostile(b *testing.B) {
	s := inspection.New()
	s.Known().Set("a", []byte("sk-proj-"+fill(1, 40, letters)))
	for name, unit := range hostile {
		text := []byte(strings.Repeat(unit, 256<<10/len(unit)))
		b.Run(name, func(b *testing.B) { run(b, len(text), func() { s.Inspect(text, inspection.All) }) })
	}
}
