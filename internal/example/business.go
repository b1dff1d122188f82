package example

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

// The environment variables from which `apply` takes the secrets of the
// business, as its files name them.
const (
	OpenAIKeyEnv     = "COUNTERSIGN_EXAMPLE_OPENAI_KEY"
	AnthropicKeyEnv  = "COUNTERSIGN_EXAMPLE_ANTHROPIC_KEY"
	HelpdeskTokenEnv = "COUNTERSIGN_EXAMPLE_HELPDESK_TOKEN"
	CourierSecretEnv = "COUNTERSIGN_EXAMPLE_COURIER_TOKEN"
	ForgeSecretEnv   = "COUNTERSIGN_EXAMPLE_FORGE_TOKEN"
	LedgerSecretEnv  = "COUNTERSIGN_EXAMPLE_LEDGER_SECRET"
)

// The agents of the business by name.
const (
	SupportAssistant   = "support-assistant"
	InvoiceChecker     = "invoice-checker"
	ReleaseBot         = "release-bot"
	KnowledgeAssistant = "knowledge-assistant"
)

// Handbook is the connection of the documents, and the directory in which
// [WriteDir] puts them.
const Handbook = "handbook"

// PolicyTests is the file policies_test.yaml with the expected decisions for
// `policy test`. It is no resource, so it is not among [Files].
//
//go:embed policies_test.yaml
var PolicyTests []byte

// Addresses say where the systems of the business are.
type Addresses struct {
	// OpenAI and Anthropic are the providers without "/v1": the scripted model
	// server, or the real ones.
	OpenAI    string
	Anthropic string
	// Helpdesk is the MCP endpoint of the helpdesk.
	Helpdesk string
	// Courier is the MCP endpoint of the carrier.
	Courier string
	// Forge is the code host, without a path. Empty: there is none, and so no
	// release-bot and nothing of what it works with.
	Forge string
	// CIKeys are the public keys of the CI system, a JWKS. Needed with Forge.
	CIKeys string
	// Ledger is the command that runs the ledger: program and arguments.
	Ledger []string
}

// File is one file of the business.
type File struct {
	// Name has no directory. It ends in .yaml or .cedar.
	Name string
	// Text is UTF-8.
	Text []byte
}

//go:embed business
var business embed.FS

// ErrAddress says which address is missing or none.
var ErrAddress = errors.New("the example business needs the addresses of its systems")

// Files returns the business as `apply` reads it, in order of name.
func Files(a Addresses) ([]File, error) {
	for name, address := range map[string]string{"OpenAI": a.OpenAI, "Anthropic": a.Anthropic, "Helpdesk": a.Helpdesk, "Courier": a.Courier} {
		if u, err := url.Parse(address); err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("%w: %s is %q, not an http or https address", ErrAddress, name, address)
		}
	}
	if len(a.Ledger) == 0 {
		return nil, fmt.Errorf("%w: Ledger has no command", ErrAddress)
	}
	if a.Forge != "" && a.CIKeys == "" {
		return nil, fmt.Errorf("%w: CIKeys is empty, so nobody could say that a job is the release bot", ErrAddress)
	}
	names, err := fs.Glob(business, "business/*.*")
	if err != nil {
		return nil, err
	}
	var files []File
	for _, name := range names {
		if a.Forge == "" && strings.HasPrefix(name, "business/forge.") {
			continue
		}
		text, err := render(name, a)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: strings.TrimPrefix(name, "business/"), Text: text})
	}
	return files, nil
}

// WriteDir writes [Files], [PolicyTests] and the handbook into dir, which is created when
// missing, for a person to read and change. Existing files of those names are
// replaced. The directory can be applied: apply passes over *_test.yaml.
func WriteDir(dir string, a Addresses) error {
	files, err := Files(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the example business: %w", err)
	}
	for _, f := range append(files, File{Name: "policies_test.yaml", Text: PolicyTests}) {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Text, 0o644); err != nil {
			return fmt.Errorf("writing the example business: %w", err)
		}
	}
	return writeHandbook(filepath.Join(dir, Handbook))
}

// writeHandbook writes the documents, as `knowledge put` reads them.
func writeHandbook(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the handbook: %w", err)
	}
	names, err := fs.Glob(business, "business/handbook/*.md")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := business.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, path.Base(name)), text, 0o644); err != nil {
			return fmt.Errorf("writing the handbook: %w", err)
		}
	}
	return nil
}

var functions = template.FuncMap{
	// A JSON string is a YAML string too; strconv.Quote agrees with both for the
	// characters an address or a path can have, and the rest it escapes.
	"quote":   strconv.Quote,
	"host":    func(address string) (string, error) { u, err := url.Parse(address); return u.Hostname(), err },
	"private": private,
}

func render(name string, a Addresses) ([]byte, error) {
	text, err := business.ReadFile(name)
	if err != nil || !strings.Contains(string(text), "{{") {
		return text, err
	}
	t, err := template.New(name).Funcs(functions).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, a)
	return out.Bytes(), err
}

// private tells whether the address is on this machine or in a private network.
func private(address string) (bool, error) {
	u, err := url.Parse(address)
	if err != nil {
		return false, err
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || (err == nil && (ip.IsLoopback() || ip.IsPrivate())), nil
}
