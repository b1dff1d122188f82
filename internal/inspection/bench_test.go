package inspection_test

import (
	"encoding/json/v2"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/inspection"
)

// prompt returns a chat request of about n bytes of prose that is full of the
// words that rules begin with.
func prompt(n int) []byte {
	vocabulary := strings.Fields(`the key to a token is the password of the secret keeper please ask for your access to the account and
		check whether the api key "openai" was rotated, the session token expired: passwords and secrets are kept in a vault at https://vault.example.org/ui
		customer order invoice payment reply ticket describe password: token= basically bearer authorization skeleton private public credentials`)
	r := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for i := 0; text.Len() < n; i++ {
		text.WriteString(vocabulary[r.IntN(len(vocabulary))])
		text.WriteByte(" \n"[min(1, i%12/11)])
	}
	b, _ := json.Marshal(map[string]any{"model": "m", "messages": []any{map[string]string{"role": "user", "content": text.String()}}})
	return b
}

func BenchmarkRedact(b *testing.B) {
	for _, known := range []int{0, 10, 1000} {
		s := inspection.New()
		for i := range known {
			s.Known().Set(fmt.Sprint("secret", i), []byte(fill(uint64(1000+i), 48, letters)))
		}
		for _, size := range []int{2 << 10, 32 << 10, 1 << 20} {
			text := prompt(size)
			b.Run(fmt.Sprintf("known=%d/size=%dK", known, size>>10), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if out := s.Redact(text); &out[0] != &text[0] {
						b.Fatalf("something was found: %+v", s.Scan(text))
					}
				}
			})
		}
	}
}

// BenchmarkHostile feeds what makes matchers work hardest.
func BenchmarkHostile(b *testing.B) {
	s := inspection.New()
	s.Known().Set("a", []byte("sk-proj-"+fill(1, 40, letters)))
	for name, unit := range map[string]string{
		"pem": "-----BEGIN PRIVATE KEY-----", "password": "password=", "quotes": `password="x`, "url": "://a:", "aws": "AKIAABCDEFGHIJKLMNOP ",
		"bearer": "Bearer ", "jwt": "eyJhbGci.", "prefix": "sk-proj-", "escapes": `\\\\\\\\\\\\\\\n`, "percent": "%25%32%35%25", "markers": "[redacted:",
	} {
		text := []byte(strings.Repeat(unit, 256<<10/len(unit)))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				s.Scan(text)
			}
		})
	}
}
