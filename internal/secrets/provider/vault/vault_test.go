package vault_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets/provider/vault"
	"github.com/countersign/countersign/test/providers"
)

var ctx = context.Background()

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTokenAndApprole(t *testing.T) {
	v := providers.StartVault(t, "hvs.root", "role-1", "secret-id-1")
	v.Put("", "kv", "apps/ledger", map[string]any{"password": "from-the-vault-1", "n": 7})
	v.Put("team-a", "kv", "apps/ledger", map[string]any{"password": "from-the-namespace"})
	now := time.Now()
	clock := func() time.Time { return now }
	base := vault.Config{Address: v.URL, Mounts: []string{"kv"}, Private: true}
	byToken, byRole, space := base, base, base
	byToken.TokenFile = file(t, "hvs.root")
	byRole.RoleID, byRole.SecretID = "role-1", file(t, "secret-id-1")
	space.TokenFile, space.Namespace = file(t, "hvs.root"), "team-a"
	for name, c := range map[string]struct {
		config vault.Config
		want   string
	}{"token": {byToken, "from-the-vault-1"}, "approle": {byRole, "from-the-vault-1"}, "namespace": {space, "from-the-namespace"}} {
		s := vault.New(c.config, clock)
		for range 2 {
			got, good, err := s.Read(ctx, "kv/apps/ledger#password")
			if err != nil || string(got.Expose()) != c.want || good != 5*time.Minute {
				t.Errorf("%s: %q, %v, %v", name, got.Expose(), good, err)
			}
		}
	}
	if v.Logins() != 1 {
		t.Errorf("%d logins", v.Logins())
	}
	s := vault.New(byRole, clock)
	if _, _, err := s.Read(ctx, "kv/apps/ledger#password"); err != nil {
		t.Fatal(err)
	}
	v.Revoke() // logs in again
	if _, _, err := s.Read(ctx, "kv/apps/ledger#password"); err != nil {
		t.Errorf("after its token was revoked: %v", err)
	}
	now = now.Add(time.Hour)
	if _, _, err := s.Read(ctx, "kv/apps/ledger#password"); err != nil || v.Logins() != 4 {
		t.Errorf("after its token ended: %v, %d logins", err, v.Logins())
	}
}

func TestRefusals(t *testing.T) {
	v := providers.StartVault(t, "hvs.root", "role-1", "secret-id-1")
	v.Put("", "kv", "apps/ledger", map[string]any{"password": "from-the-vault-1", "n": 7})
	c := vault.Config{Address: v.URL, Mounts: []string{"kv"}, Private: true, TokenFile: file(t, "hvs.wrong")}
	if _, _, err := vault.New(c, time.Now).Read(ctx, "kv/apps/ledger#password"); fault.KindOf(err) != fault.Unavailable || strings.Contains(err.Error(), "hvs.") {
		t.Errorf("a wrong token: %v", err)
	}
	c.TokenFile = file(t, "hvs.root")
	s := vault.New(c, time.Now)
	for _, ref := range []string{"kv/nothing#password", "kv/apps/ledger#nothing", "kv/apps/ledger#n"} {
		if _, _, err := s.Read(ctx, ref); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{"sys/apps/x#y", "kv/../sys/x#y", "kv/apps", "kv#x", "", "kv/a?b#c", "kv//a#b"} {
		if err := s.Check(ref); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", ref, err)
		}
		if _, _, err := s.Read(ctx, ref); err == nil {
			t.Errorf("%s was read", ref)
		}
	}
	c.Private = false
	c.Address = strings.Replace(c.Address, "http://", "https://", 1)
	if _, _, err := vault.New(c, time.Now).Read(ctx, "kv/apps/ledger#password"); fault.KindOf(err) != fault.Denied {
		t.Errorf("a private address: %v", err)
	}
	c.RoleID, c.SecretID, c.Private = "role-1", file(t, "wrong"), true
	c.Address = v.URL
	if _, _, err := vault.New(c, time.Now).Read(ctx, "kv/apps/ledger#password"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a wrong approle: %v", err)
	}
}
