package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets templates
var files embed.FS

// asset is a file that browsers fetch. Its address holds its digest, so that
// it may be kept for ever.
type asset struct {
	mime   string
	plain  []byte
	zipped []byte
}

// loadAssets returns the assets by their addresses, and the addresses by name.
func loadAssets() (byPath map[string]asset, addresses map[string]string, err error) {
	byPath, addresses = map[string]asset{}, map[string]string{}
	err = fs.WalkDir(files, "assets", func(name string, d fs.DirEntry, err error) error {
		kind := mime.TypeByExtension(path.Ext(name))
		if err != nil || d.IsDir() || kind == "" {
			return err
		}
		b, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		var z bytes.Buffer
		zw, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := zw.Write(b); err != nil {
			return err
		}
		if err := zw.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		short := strings.TrimPrefix(name, "assets/")
		address := "/assets/" + hex.EncodeToString(sum[:6]) + "/" + short
		byPath[address], addresses[short] = asset{kind, b, z.Bytes()}, address
		return nil
	})
	return byPath, addresses, err
}

func (c *Console) serveAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := c.assets[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.mime)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	b := a.plain
	if takesGzip(r) {
		h.Set("Content-Encoding", "gzip")
		b = a.zipped
	}
	h.Set("Content-Length", fmt.Sprint(len(b)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(b) // the reader went away
	}
}

func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" {
			q := strings.ReplaceAll(params, " ", "")
			return q != "q=0" && !strings.HasPrefix(q, "q=0.000") && q != "q=0.0"
		}
	}
	return false
}
