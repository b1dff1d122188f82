package mcp_test

import (
	"bytes"
	"testing"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
)

func sealer() *mcp.Front {
	return mcp.New(mcp.Options{Line: (*gateway.Gateway)(nil), Registry: (*connections.Service)(nil), Key: bytes.Repeat([]byte{7}, 32)})
}

func TestASealIsForOneAgentAndConnection(t *testing.T) {
	f := sealer()
	token := f.Seal("agt_a", "srv", "upstream")
	if got, ok := f.Unseal("agt_a", "srv", token); !ok || got != "upstream" {
		t.Errorf("own: %q %v", got, ok)
	}
	if token == f.Seal("agt_a", "srv", "upstream") {
		t.Error("two seals are the same")
	}
	for name, try := range map[string][3]string{
		"another agent":      {"agt_b", "srv", token},
		"another connection": {"agt_a", "srv2", token},
		"joined names":       {"agt_a\x00srv", "", token},
		"cut":                {"agt_a", "srv", token[:len(token)-1]},
		"changed":            {"agt_a", "srv", token[:len(token)-2] + "AA"},
		"plain":              {"agt_a", "srv", "upstream"},
		"empty":              {"agt_a", "srv", "cs1."},
	} {
		if got, ok := f.Unseal(try[0], try[1], try[2]); ok {
			t.Errorf("%s: opened as %q", name, got)
		}
	}
}

func FuzzSession(f *testing.F) {
	front := sealer()
	f.Add("cs1.AAAA")
	f.Add(front.Seal("agt_b", "srv", "x"))
	f.Fuzz(func(t *testing.T, token string) {
		if got, ok := front.Unseal("agt_a", "srv", token); ok {
			t.Fatalf("opened %q as %q", token, got)
		}
		if got, ok := front.Unseal("agt_a", "srv", front.Seal("agt_a", "srv", token)); !ok || got != token {
			t.Fatal("a seal did not open")
		}
	})
}
