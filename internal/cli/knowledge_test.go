package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/client"
)

func TestDocumentsAreReadWithTheirFrontMatter(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.md":        "---\ntitle: A\nreaders: [user:ann]\nclassification: secret\n---\nhello\n",
		"sub/b c.txt": "plain",
		"sub/c.md":    "---\r\nreaders: []\r\n---\r\nnobody's\r\n",
		"d.md":        "---\nnot closed",
		"e.md":        "---\n---\nempty",
		"skipped.bin": "x",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	docs, err := readDocuments(dir, client.Document{Readers: []string{"everyone"}, Owner: "pat"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range docs {
		got = append(got, strings.Join([]string{d.ID, d.Title, strings.Join(d.Readers, "+"), d.Classification, d.Owner, d.Text}, "|"))
	}
	want := []string{"a.md|A|user:ann|secret|pat|hello\n", "d.md||everyone||pat|---\nnot closed", "e.md||everyone||pat|empty",
		"sub/b-c.txt||everyone||pat|plain", "sub/c.md||||pat|nobody's\n"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestBadFrontMatterIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"unknown": "---\nreader: [user:ann]\n---\nx", "not YAML": "---\n{\n---\nx", "not a list": "---\nreaders: {a: b}\n---\nx", "too long": strings.Repeat("x", maxDocument+1),
	} {
		if d, err := readDocument(strings.NewReader(text), "x", client.Document{Readers: []string{"everyone"}}); err == nil {
			t.Errorf("%s: %.80v", name, d)
		}
	}
}

func TestALinkOutOfTheDirectoryIsNotFollowed(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.md")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "a.md")); err != nil {
		t.Skip(err)
	}
	if docs, err := readDocuments(dir, client.Document{}); err == nil {
		t.Errorf("read %v", docs)
	}
}
