package cli

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/client"
)

const (
	maxDocument = 256 << 10 // bytes of a text, as the server has it
	maxMapping  = 64 << 10
	atOnce      = 100
	mostFiles   = 100_000
)

func (a *app) knowledgeCommand() *cobra.Command {
	return group("knowledge", "Keep documents that agents search, each with its readers", a.knowledgePut(), a.knowledgeList(), a.knowledgeShow(), a.knowledgeRemove())
}

// knowledgeBases are the connections whose documents are here.
func knowledgeBases(ctx context.Context, c *client.Client) ([]string, error) {
	all, err := c.Connections(ctx)
	all = slices.DeleteFunc(all, func(x client.Connection) bool { return x.Dialect != "embedded" })
	return namesOf(all, err, func(x client.Connection) string { return x.Name })
}

func (a *app) knowledgePut() *cobra.Command {
	var d client.Document
	cmd := &cobra.Command{Use: "put NAME FILE|DIRECTORY|-", Short: "Put a document, or all of a directory", Args: operands("NAME", "FILE"), ValidArgsFunction: a.completeFirst(knowledgeBases),
		Long: `Puts documents into a retrieval connection with the dialect embedded. A file may begin with front matter, which goes before the flags:

  ---
  title: Travel policy
  readers: [group:staff, user:fiona]
  classification: internal
  ---

Of a directory, every .md and .txt file beneath it is put; its id is its path there. A document that names no readers is nobody's:
put it with --reader everyone if all may read it. Documents count as untrusted, as somebody may have pasted anything into them, unless
--source trusted says that nobody outside can write them.`,
		Example: `  countersign knowledge put handbook ./handbook --reader group:staff --reason "the handbook of 2026"
  countersign knowledge put handbook notice.md --id notice --reader everyone`}
	fl := cmd.Flags()
	fl.StringVar(&d.ID, "id", "", "id of the document (default: the file's name)")
	fl.StringVar(&d.Title, "title", "", "title (default: the id)")
	fl.StringVar(&d.Owner, "owner", "", "who answers for it")
	fl.StringArrayVar(&d.Readers, "reader", nil, "who may read it: user:NAME, group:NAME, team:NAME, agent:NAME or everyone (repeatable)")
	fl.StringVar(&d.Classification, "classification", "", "public, internal, confidential or secret (default internal)")
	fl.StringVar(&d.Source, "source", "", "trusted or untrusted (default untrusted)")
	fl.StringVar(&d.Collection, "collection", "", "what it belongs to")
	fixed(cmd, "classification", "public", "internal", "confidential", "secret")
	fixed(cmd, "source", "trusted", "untrusted")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		docs, err := readDocuments(args[1], d)
		if err != nil {
			return err
		}
		changed := []string{}
		for batch := range batches(docs) {
			ids, err := c.PutDocuments(ctx, args[0], batch)
			if err != nil {
				return err
			}
			changed = append(changed, ids...)
		}
		if nobody := slices.IndexFunc(docs, func(d client.Document) bool { return len(d.Readers) == 0 }); nobody >= 0 {
			a.warn("%s names no readers: nobody can read it", inert(docs[nobody].ID, 200))
		}
		return a.did(struct {
			Documents int      `json:"documents"`
			Changed   []string `json:"changed"`
		}{len(docs), changed}, "%d of %d documents of %s changed", len(changed), len(docs), args[0])
	})
	return cmd
}

// batches are as many documents as are put at once, and no more than a request holds.
func batches(docs []client.Document) func(func([]client.Document) bool) {
	const most = 8 << 20
	return func(yield func([]client.Document) bool) {
		for begin, end, size := 0, 0, 0; begin < len(docs); begin, size = end, 0 {
			for end < len(docs) && end-begin < atOnce && size < most {
				size += len(docs[end].Text)
				end++
			}
			if !yield(docs[begin:end]) {
				return
			}
		}
	}
}

// readDocuments reads a file, or every text of a directory.
func readDocuments(path string, with client.Document) ([]client.Document, error) {
	if path == "-" {
		d, err := readDocument(os.Stdin, "", with)
		if err == nil && d.ID == "" {
			err = usageError{errors.New("give the document an id: --id")}
		}
		return []client.Document{d}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		d, err := openDocument(path, filepath.Base(path), with)
		return []client.Document{d}, err
	}
	if with.ID != "" || with.Title != "" {
		return nil, usageError{errors.New("--id and --title are for one document; of a directory, front matter says them")}
	}
	var docs []client.Document
	root, err := os.OpenRoot(path) // a link to outside is not followed
	if err != nil {
		return nil, err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !slices.Contains([]string{".md", ".txt"}, filepath.Ext(name)) {
			return err
		}
		if len(docs) == mostFiles {
			return fmt.Errorf("%s holds over %d documents", path, mostFiles)
		}
		f, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		defer f.Close()
		d, err := readDocument(f, name, with)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		docs = append(docs, d)
		return nil
	})
	if err == nil && len(docs) == 0 {
		err = fmt.Errorf("there is no .md or .txt file in %s", path)
	}
	return docs, err
}

func openDocument(path, id string, with client.Document) (client.Document, error) {
	f, err := os.Open(path)
	if err != nil {
		return client.Document{}, err
	}
	defer f.Close()
	return readDocument(f, id, with)
}

// matter is what may stand before a text.
type matter struct {
	ID             string   `yaml:"id"`
	Title          string   `yaml:"title"`
	Owner          string   `yaml:"owner"`
	Readers        []string `yaml:"readers"`
	Classification string   `yaml:"classification"`
	Source         string   `yaml:"source"`
	Collection     string   `yaml:"collection"`
}

// readDocument reads a text with its front matter; with is what holds where that
// says nothing.
func readDocument(r io.Reader, id string, with client.Document) (client.Document, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+maxMapping))
	if err != nil {
		return client.Document{}, err
	}
	d := with
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	var m matter
	if head, rest, ok := frontMatter(b); ok {
		dec := yaml.NewDecoder(bytes.NewReader(head))
		dec.KnownFields(true)
		if err := dec.Decode(&m); err != nil && !errors.Is(err, io.EOF) {
			return d, fmt.Errorf("its front matter cannot be read: %w", err)
		}
		b = rest
	}
	if len(b) > maxDocument {
		return d, fmt.Errorf("its text has over %d bytes", maxDocument)
	}
	for to, said := range map[*string]string{&d.ID: m.ID, &d.Title: m.Title, &d.Owner: m.Owner, &d.Classification: m.Classification, &d.Source: m.Source, &d.Collection: m.Collection} {
		if said != "" {
			*to = said
		}
	}
	if m.Readers != nil {
		d.Readers = m.Readers
	}
	if d.ID == "" {
		d.ID = strings.ReplaceAll(id, " ", "-")
	}
	d.Text = strings.TrimLeft(string(b), "\r\n")
	return d, nil
}

// frontMatter splits what stands between two lines of three hyphens at the
// beginning of a text.
func frontMatter(b []byte) (head, rest []byte, ok bool) {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	after, ok := bytes.CutPrefix(b, []byte("---\n"))
	if !ok {
		return nil, b, false
	}
	if rest, ok := bytes.CutPrefix(after, []byte("---\n")); ok {
		return nil, rest, true
	}
	head, rest, ok = bytes.Cut(after, []byte("\n---\n"))
	if !ok {
		return nil, b, false
	}
	return head, rest, true
}

func (a *app) knowledgeList() *cobra.Command {
	cmd := &cobra.Command{Use: "list NAME", Short: "List the documents of a knowledge base", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(knowledgeBases)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		docs, err := c.Documents(ctx, args[0])
		if err != nil {
			return err
		}
		return list(a, docs, "no documents yet: countersign knowledge put "+args[0]+" DIRECTORY",
			column[client.Document]{"ID", func(d client.Document) string { return d.ID }, func(client.Document) string { return bold }},
			column[client.Document]{"TITLE", func(d client.Document) string { return d.Title }, nil},
			column[client.Document]{"READERS", func(d client.Document) string { return strings.Join(d.Readers, ", ") }, nil},
			column[client.Document]{"CLASSIFICATION", func(d client.Document) string { return d.Classification }, nil},
			column[client.Document]{"SOURCE", func(d client.Document) string { return d.Source }, nil},
			column[client.Document]{"OWNER", func(d client.Document) string { return d.Owner }, nil},
			column[client.Document]{"UPDATED", func(d client.Document) string { return ago(d.Updated) }, nil})
	})
	return cmd
}

func (a *app) knowledgeShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME ID", Short: "Show a document", Args: operands("NAME", "ID"), ValidArgsFunction: a.completeFirst(knowledgeBases)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		d, err := c.Document(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		return a.show(d, row("id", d.ID), row("title", d.Title), row("owner", d.Owner), row("readers", strings.Join(d.Readers, ", ")), row("classification", d.Classification),
			row("source", d.Source), row("collection", d.Collection), row("digest", d.Digest), row("put by", d.PutBy), row("updated", ago(d.Updated)), row("text", d.Text))
	})
	return cmd
}

func (a *app) knowledgeRemove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "remove NAME ID", Short: "Remove a document", Args: operands("NAME", "ID"), ValidArgsFunction: a.completeFirst(knowledgeBases)}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Remove the document %s? No agent finds it from now on.", args[1]); err != nil {
			return err
		}
		if err := c.RemoveDocument(ctx, args[0], args[1]); err != nil {
			return err
		}
		return a.did(gone{args[1], true}, "document %s removed", args[1])
	})
	return cmd
}

// readMapping reads a mapping as YAML, of which JSON is a part.
func readMapping(path string) (jsontext.Value, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMapping+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxMapping {
		return nil, fmt.Errorf("%s is over 64 KiB", path)
	}
	var v map[string]any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return json.Marshal(v, json.Deterministic(true))
}
