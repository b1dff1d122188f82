package egress

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/gateway"
)

// Limits on a multipart form.
const (
	maxParts      = 1000
	maxPartHeader = 8 << 10
)

// filePart is a file in a multipart form.
type filePart struct{ field, filename, media string }

// form is what was read of a multipart form (RFC 7578).
type form struct {
	fields []pair
	files  []filePart
	open   bool // the last part is a file whose end was not seen yet
}

// multipart reads a form with files. One that fits the limit is read whole. Of
// a larger one the fields must come first and one file last, whose content is
// then passed on as it comes; another part after it breaks the request off.
func (x *exchange) multipart(call *gateway.Call, args *object, boundary string) error {
	head, more, err := x.head()
	if err != nil {
		return err
	}
	f, err := parseForm(head, boundary, more)
	if err != nil {
		return err
	}
	if err := x.form(args, f.fields); err != nil {
		return err
	}
	if len(f.files) > 0 {
		args.raw("files", f.list())
	}
	if !more {
		call.Request.Body = head
		return nil
	}
	rest := newTail(head, boundary, x.arriving())
	rest.closed = !f.open
	x.stream(call, head, rest)
	return nil
}

func (f *form) list() []byte {
	out := []byte("[")
	for i, file := range f.files {
		var o object
		o.text("field", file.field)
		o.text("filename", file.filename)
		o.text("type", file.media)
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, o.end()...)
	}
	return append(out, ']')
}

// parseForm reads a form, or its beginning. There is one way to write one here:
// no text before the first boundary or after the last, lines end in CRLF, each
// part has one Content-Disposition. Readers disagree about everything else.
func parseForm(b []byte, boundary string, more bool) (*form, error) {
	if boundary == "" || len(boundary) > 70 {
		return nil, errForm.Say("the form has no boundary, or one over 70 characters")
	}
	f, names := &form{}, map[string]bool{}
	dash := []byte("--" + boundary)
	rest, ok := bytes.CutPrefix(b, dash)
	if !ok {
		return nil, errForm.Say("the form must begin with its boundary")
	}
	for n := 0; ; n++ {
		if after, last := bytes.CutPrefix(rest, []byte("--")); last {
			if len(bytes.Trim(after, "\r\n")) > 0 || len(after) > 2 {
				return nil, errForm.Say("something follows the form's end")
			}
			return f, nil
		}
		if rest, ok = bytes.CutPrefix(rest, []byte("\r\n")); !ok || n == maxParts {
			return nil, errForm.Say("a boundary is not followed by a line end, or there are more than %d parts", maxParts)
		}
		end := bytes.Index(rest[:min(len(rest), maxPartHeader)], []byte("\r\n\r\n"))
		if end < 0 {
			return nil, errForm.Say("a part has no header, one over %d bytes, or it lies beyond what is read of a large form: send fields before the file", maxPartHeader)
		}
		content, next, closed := bytes.Cut(rest[end+4:], append([]byte("\r\n"), dash...))
		if !closed && !more {
			return nil, errForm.Say("the form has no end")
		}
		if err := f.part(rest[:end], content, closed, names); err != nil {
			return nil, err
		}
		if !closed {
			f.open = true
			return f, nil
		}
		rest = next
	}
}

func (f *form) part(header, content []byte, closed bool, names map[string]bool) error {
	field, filename, media, isFile, err := partHeader(header)
	if err != nil {
		return err
	}
	if !isFile {
		switch {
		case !closed:
			return errForm.Say("the field %.60q lies beyond what is read of a large form; send fields before the file", field)
		case !utf8.Valid(content) || bytes.IndexByte(content, 0) >= 0:
			return errForm.Say("the field %.60q is not UTF-8 text; send it as a file, with a filename", field)
		case names["file "+field]:
			return errForm.Say("%.60q is a field and a file", field)
		}
		names["field "+field] = true
		f.fields = append(f.fields, pair{field, string(content)})
		return nil
	}
	if names["file "+field] || names["field "+field] {
		return errForm.Say("two files, or a file and a field, are named %.60q: readers disagree about which one counts", field)
	}
	names["file "+field] = true
	f.files = append(f.files, filePart{field, filename, media})
	return nil
}

// partHeader reads the header of a part.
func partHeader(b []byte) (field, filename, media string, isFile bool, err error) {
	seen := map[string]string{}
	for line := range strings.SplitSeq(string(b), "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		name = strings.ToLower(name)
		_, twice := seen[name]
		if !ok || twice || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) ||
			!slices.Contains([]string{"content-disposition", "content-type", "content-length", "content-transfer-encoding"}, name) {
			return "", "", "", false, errForm.Say("the header of a part may have one Content-Disposition, Content-Type, Content-Length and Content-Transfer-Encoding, each on one line")
		}
		seen[name] = strings.TrimSpace(value)
	}
	if e := strings.ToLower(seen["content-transfer-encoding"]); e != "" && e != "binary" && e != "8bit" && e != "7bit" {
		return "", "", "", false, errForm.Say("the Content-Transfer-Encoding %.20q of a part is not read; send it as it is (RFC 7578, 4.7)", e)
	}
	disposition := seen["content-disposition"]
	if strings.Contains(strings.ToLower(disposition), "*=") || strings.Count(disposition, "filename") > 1 {
		return "", "", "", false, errForm.Say("send a part's filename once and plainly in UTF-8, not as filename* (RFC 7578, 4.2)")
	}
	kind, params, perr := mime.ParseMediaType(disposition)
	if perr != nil || kind != "form-data" || params["name"] == "" {
		return "", "", "", false, errForm.Say("a part has no Content-Disposition: form-data with a name")
	}
	filename, isFile = params["filename"]
	if len(params) > 2 || len(params) == 2 && !isFile || strings.ContainsAny(filename, "\x00") {
		return "", "", "", false, errForm.Say("the Content-Disposition of a part may have a name and a filename alone")
	}
	return params["name"], filename, seen["content-type"], isFile, nil
}

// tail is the rest of a large form after its head: the content of the last
// file and the form's end. It breaks off when there is anything else, which
// nobody has decided on.
type tail struct {
	r      io.Reader
	mark   []byte // CRLF, the boundary
	kept   []byte // the end of what passed, shorter than a mark and what follows it
	closed bool   // the last boundary has passed
	after  int    // bytes since
}

func newTail(head []byte, boundary string, r io.Reader) *tail {
	t := &tail{r: r, mark: []byte("\r\n--" + boundary)}
	t.kept = bytes.Clone(head[max(0, len(head)-len(t.mark)-1):])
	return t
}

// errTail breaks a request off.
var errTail = gateway.ErrBody.Say("the form has another part after its large file; send fields before the file, and one large file")

// Read implements io.Reader.
func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		if terr := t.see(p[:n]); terr != nil {
			return 0, terr // nothing of what may hold the part passes
		}
	}
	if err == io.EOF && !t.closed {
		return 0, fmt.Errorf("%w: it has no end", errTail)
	}
	return n, err
}

// see looks for the boundary in what passes, across the borders of pieces.
func (t *tail) see(b []byte) error {
	if t.closed {
		t.after += len(b)
		if t.after > 2 || len(bytes.Trim(b, "\r\n")) > 0 {
			return errTail
		}
		return nil
	}
	window := append(t.kept, b...)
	if i := bytes.Index(window, t.mark); i >= 0 {
		end := window[i+len(t.mark):]
		switch {
		case len(end) < 2: // what follows is not there yet
			t.kept = bytes.Clone(window[i:])
			if len(end) == 1 && end[0] != '-' {
				return errTail
			}
			return nil
		case !bytes.HasPrefix(end, []byte("--")):
			return errTail
		}
		t.closed = true
		return t.see(end[2:])
	}
	t.kept = bytes.Clone(window[max(0, len(window)-len(t.mark)+1):])
	return nil
}
