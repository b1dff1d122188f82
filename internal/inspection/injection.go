package inspection

import "bytes"

// Shapes of text that wants to steer a model, and of markup that would carry
// data away. What is found here is telemetry: whoever writes such text can write
// it differently. Policy and provenance are the control.

func injectionRules() []rule {
	var out []rule
	add := func(name string, match func([]byte, int) (int, int, bool), literals ...string) {
		for _, l := range literals {
			m := match
			if m == nil {
				n := len(l)
				m = func(b []byte, i int) (int, int, bool) { return i, i + n, wordStart(b, i) }
			}
			out = append(out, rule{name: name, literal: l, next: anything, match: m, fold: true, kind: Injections})
		}
	}
	add("instruction", overrides, "ignore ", "disregard ", "forget ", "override ", "bypass ")
	add("instruction", nil, "new instructions:", "your new task is", "your new instructions", "from now on, you ", "from now on you ",
		"you are now in ", "act as if you", "developer mode enabled", "reveal your system prompt", "print your system prompt",
		"do not tell the user", "don't tell the user", "do not mention this to the user", "without telling the user", "without informing the user",
		"do not inform the user", "don't inform the user", "hide this from the user", "the user must not know")
	add("model-markup", nil, "<|im_start|>", "<|im_end|>", "<|system|>", "<|start_header_id|>", "[/inst]", "<<sys>>", "<start_of_turn>", "### system:", "<information>")
	add("tool-instruction", nil, "<important>", "before using this tool", "before calling this tool", "when this tool is called, ", "instead of calling ", "always call this tool",
		"must call this tool first", "pass its content as ", "read the file ~/", "contents of ~/.ssh", "as the 'sidenote'", "as 'sidenote'")
	add("markup-fetch", imageLink, "](http", "](//")
	add("markup-fetch", imageTag, "<img ", "<iframe ", "<script ", "<link ")
	add("hidden-text", hiddenStyle, "display:none", "display: none", "visibility:hidden", "visibility: hidden", "font-size:0", "font-size: 0", "opacity:0;", "opacity: 0;")
	return out
}

// wordStart reports whether no letter stands before i.
func wordStart(b []byte, i int) bool { return i == 0 || !alnum[b[i-1]] }

// overrides finds a verb that i begins with and, within a few words, what it
// would set aside: earlier instructions.
func overrides(b []byte, i int) (int, int, bool) {
	const reach = 64
	if !wordStart(b, i) {
		return 0, 0, false
	}
	var part [reach]byte
	low := part[:0]
	for _, c := range b[i:min(len(b), i+reach)] {
		if c == '.' || c == '\n' || c == '!' || c == '?' {
			break
		}
		if isUpper(c) {
			c |= 0x20
		}
		low = append(low, c)
	}
	_, what := firstOf(low, "instruction", "prompt", "guideline", "directive", "your rules", "system message", "previous messages", "safety", "your training")
	if what == 0 {
		return 0, 0, false
	}
	whose, _ := firstOf(low[:what], " previous", " prior", " above", " earlier", " all ", " any ", " your ", " system", " the system", " other ", " preceding", " these ")
	return i, i + what, whose >= 0
}

// firstOf returns where the first of words begins and ends in b; -1, 0 if none is there.
func firstOf(b []byte, words ...string) (start, end int) {
	start = -1
	for _, w := range words {
		if n := bytes.Index(b, []byte(w)); n >= 0 && (start < 0 || n < start) {
			start, end = n, n+len(w)
		}
	}
	return start, end
}

// carries reports whether a URL can carry data to whoever reads the request: it
// leads elsewhere and has a query with something in it.
func carries(url []byte) bool {
	if !bytes.HasPrefix(url, []byte("http")) && !bytes.HasPrefix(url, []byte("//")) {
		return false
	}
	q := bytes.IndexByte(url, '?')
	return q >= 0 && len(url)-q > 4 && bytes.IndexByte(url[q:], '=') >= 0
}

var urlChars = func() *class {
	var c class
	for i := 0x21; i < 0x100; i++ {
		c[i] = i != 0x7f && !bytes.ContainsRune([]byte("\"'<>()\\`"), rune(i))
	}
	return &c
}()

// imageLink finds the Markdown image whose address, which carries data, begins at i+2.
func imageLink(b []byte, i int) (int, int, bool) {
	const alt, longest = 128, 2 << 10
	from := max(0, i-alt)
	open := bytes.LastIndex(b[from:i], []byte("!["))
	end := run(b, i+2, urlChars, longest)
	return from + open, end, open >= 0 && carries(b[i+2:end])
}

// imageTag finds an element that fetches an address that carries data.
func imageTag(b []byte, i int) (int, int, bool) {
	const tag, longest = 256, 2 << 10
	part := b[i:min(len(b), i+tag)]
	if n := bytes.IndexByte(part, '>'); n >= 0 {
		part = part[:n]
	}
	n, at := firstOf(part, "src=", "href=", "SRC=", "HREF=")
	if n < 0 {
		return 0, 0, false
	}
	for at += i; at < len(b) && (b[at] == '"' || b[at] == '\'' || b[at] == '\\'); at++ {
	}
	end := run(b, at, urlChars, longest)
	return i, end, carries(b[at:end])
}

// hiddenStyle finds style attributes that hide text from people.
func hiddenStyle(b []byte, i int) (int, int, bool) {
	const reach = 64
	end := run(b, i, styleChars, 16)
	before := b[max(0, i-reach):i]
	n := bytes.LastIndex(before, []byte("style="))
	return i, end, n >= 0 && bytes.IndexByte(before[n:], '>') < 0 && (end == len(b) || b[end-1] != '0' || b[end] != '.')
}

var styleChars = classOf("azAZ09::--  ;;")

// scanHidden appends characters that people do not see and models read: the
// tag block of Unicode, long runs of zero-width characters, and overrides of the direction.
func scanHidden(b []byte, found []Finding) []Finding {
	const least = 4 // zero-width characters in a row; emoji sequences join with one
	for i := nextWide(b, 0); i < len(b); i = nextWide(b, i) {
		end, n := i, 0
		for end < len(b) {
			size := invisible(b[end:])
			if size == 0 {
				break
			}
			end, n = end+size, n+1
		}
		switch {
		case n == 0:
			i++
		case n >= least || b[i] == 0xf3 || override(b[i:]):
			found = append(found, Finding{Kind: Injections, Rule: "hidden-text", Start: i, End: end})
			i = end
		default:
			i = end
		}
	}
	return found
}

// invisible returns the length of the invisible character that b begins with, 0 if there is none.
func invisible(b []byte) int {
	switch {
	case len(b) >= 3 && b[0] == 0xe2 && b[1] == 0x80 && (b[2] >= 0x8b && b[2] <= 0x8f || b[2] >= 0xaa && b[2] <= 0xae),
		len(b) >= 3 && b[0] == 0xe2 && b[1] == 0x81 && b[2] >= 0xa0 && b[2] <= 0xaf,
		len(b) >= 3 && b[0] == 0xef && b[1] == 0xbb && b[2] == 0xbf:
		return 3
	case len(b) >= 2 && b[0] == 0xc2 && b[1] == 0xad: // soft hyphen
		return 2
	case len(b) >= 4 && b[0] == 0xf3 && b[1] == 0xa0 && (b[2] == 0x80 || b[2] == 0x81): // U+E0000 to U+E007F
		return 4
	}
	return 0
}

// override reports whether b begins with U+202D or U+202E.
func override(b []byte) bool {
	return len(b) >= 3 && b[0] == 0xe2 && b[1] == 0x80 && (b[2] == 0xad || b[2] == 0xae)
}
