package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/example/forge"
)

// business is the example company as it runs beside the server.
type business struct {
	dir   string // its data
	exe   string // this program, whose parts it is
	known known

	noForge error                     // why there is no release-bot; nil if there is
	people  map[string]*client.Client // who has signed in

	openai, anthropic string // real keys, if there are any
	addresses         example.Addresses
}

// known is what stays the same between starts.
type known struct {
	ModelKey      string         `json:"model_key"`
	HelpdeskToken string         `json:"helpdesk_token"`
	CourierToken  string         `json:"courier_token"`
	ForgeToken    string         `json:"forge_token"`
	CIKey         jsontext.Value `json:"ci_key,omitzero"` // private JWK
	LedgerSecret  string         `json:"ledger_secret"`
	Model         string         `json:"model"`    // addresses of the last start
	Helpdesk      string         `json:"helpdesk"` //
	Courier       string         `json:"courier"`
	Forge         string         `json:"forge"`

	Addresses example.Addresses `json:"addresses"` // of all systems at the last start
	Passwords map[string]string `json:"passwords"` // of the people on whose behalf agents act
}

// openBusiness prepares the company's directory, and at the first start its
// credentials.
func openBusiness(dir string) (*business, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b := &business{dir: dir, exe: exe, people: map[string]*client.Client{}, openai: os.Getenv("OPENAI_API_KEY"), anthropic: os.Getenv("ANTHROPIC_API_KEY")}
	b.known.Passwords = map[string]string{}
	text, err := os.ReadFile(b.file())
	switch {
	case errors.Is(err, os.ErrNotExist):
		b.known = known{ModelKey: "model-" + rand.Text(), HelpdeskToken: "helpdesk-" + rand.Text(), CourierToken: "courier-" + rand.Text(), LedgerSecret: "ledger-" + rand.Text(), Passwords: map[string]string{}}
		return b, b.save()
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(text, &b.known); err != nil {
		return nil, fmt.Errorf("%s: %w (delete it to start the example afresh)", b.file(), err)
	}
	return b, nil
}

func (b *business) file() string { return filepath.Join(b.dir, "business.json") }

func (b *business) save() error {
	text, err := json.Marshal(b.known)
	if err != nil {
		return err
	}
	tmp := b.file() + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, b.file())
}

// secrets returns the environment that the company's files name.
func (b *business) secrets(name string) string {
	switch name {
	case example.OpenAIKeyEnv:
		return or(b.openai, b.known.ModelKey)
	case example.AnthropicKeyEnv:
		return or(b.anthropic, b.known.ModelKey)
	case example.HelpdeskTokenEnv:
		return b.known.HelpdeskToken
	case example.CourierSecretEnv:
		return b.known.CourierToken
	case example.ForgeSecretEnv:
		return b.known.ForgeToken
	case example.LedgerSecretEnv:
		return b.known.LedgerSecret
	}
	return ""
}

func or(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// open starts the company's servers. They end with ctx.
func (b *business) open(ctx context.Context, arrivals time.Duration) error {
	model, err := b.serve(ctx, b.known.Model, []string{"model"}, example.ModelKeyEnv+"="+b.known.ModelKey)
	if err != nil {
		return err
	}
	desk := []string{"helpdesk", "--data", filepath.Join(b.dir, "helpdesk"), "--arrivals", arrivals.String()}
	helpdesk, err := b.serve(ctx, b.known.Helpdesk, desk, example.DeskTokenEnv+"="+b.known.HelpdeskToken)
	if err != nil {
		return err
	}
	courier, err := b.serve(ctx, b.known.Courier, []string{"courier", "--data", b.courier()}, example.CourierTokenEnv+"="+b.known.CourierToken)
	if err != nil {
		return err
	}
	code, keys, err := b.openForge(ctx)
	if err != nil {
		return err
	}
	b.known.Model, b.known.Helpdesk, b.known.Courier = host(model), host(helpdesk), host(courier)
	b.addresses = example.Addresses{OpenAI: model, Anthropic: model, Helpdesk: helpdesk, Courier: courier, Forge: code, CIKeys: keys,
		Ledger: []string{b.exe, "example", "ledger", "--data", filepath.Join(b.dir, "ledger"), "--arrivals", arrivals.String()}}
	if b.openai != "" {
		b.addresses.OpenAI = "https://api.openai.com"
	}
	if b.anthropic != "" {
		b.addresses.Anthropic = "https://api.anthropic.com"
	}
	b.known.Addresses = b.addresses
	return b.save()
}

// openForge starts the code host and returns where it is, with the public keys
// of the CI system. Both are empty where git is missing.
func (b *business) openForge(ctx context.Context) (address, keys string, err error) {
	if _, b.noForge = forge.Backend(ctx); b.noForge != nil {
		return "", "", nil
	}
	if b.known.CIKey == nil {
		if b.known.CIKey, err = newCIKey(); err != nil {
			return "", "", err
		}
		b.known.ForgeToken = "forge-" + rand.Text()
	}
	if keys, err = ciKeys(b.known.CIKey); err != nil {
		return "", "", err
	}
	address, err = b.serve(ctx, b.known.Forge, []string{"forge", "--data", filepath.Join(b.dir, "forge")}, example.ForgeTokenEnv+"="+b.known.ForgeToken)
	b.known.Forge = host(address)
	return address, keys, err
}

// courier is the directory of the carrier.
func (b *business) courier() string { return filepath.Join(b.dir, "courier") }

func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// serve starts one server, at the address it had before if that is free, and
// returns where it is.
func (b *business) serve(ctx context.Context, before string, part []string, env string) (string, error) {
	if before != "" {
		if address, err := b.serveAt(ctx, before, part, env); err == nil || ctx.Err() != nil {
			return address, err
		}
	}
	return b.serveAt(ctx, "127.0.0.1:0", part, env)
}

func (b *business) serveAt(ctx context.Context, at string, part []string, env string) (string, error) {
	log, err := os.OpenFile(filepath.Join(b.dir, part[0]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer log.Close()
	cmd := exec.Command(b.exe, append(append([]string{"example"}, part...), "--listen", at)...)
	cmd.Env = append(plainEnvironment(), env)
	cmd.Dir = b.dir
	cmd.Stderr = log
	out, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	cmd.Stdout = write
	_, err = start(ctx, cmd)
	write.Close()
	if err != nil {
		out.Close()
		return "", fmt.Errorf("cannot start the example's %s: %w", part[0], err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if address, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			go func() { // it says no more, but must not block if it does
				defer out.Close()
				for lines.Scan() {
				}
			}()
			return address, nil
		}
	}
	out.Close()
	return "", fmt.Errorf("the example's %s did not start: see %s", part[0], log.Name())
}

// plainEnvironment is what any program needs, without credentials of the person.
func plainEnvironment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
