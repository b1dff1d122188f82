package inspection

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// rule is one thing to look for: where its literal begins, match decides.
type rule struct {
	name    string
	literal string // at least 2 bytes; lower case if fold
	next    *class // what may follow a literal of less than 4 bytes
	// match looks at b around i, where the literal begins, and returns what to
	// hide. Its cost MUST be bounded by a small constant, or by what it walks,
	// of which it then returns the end even if it finds nothing: the rule is not
	// asked again before that.
	match func(b []byte, i int) (start, end int, ok bool)
	fold  bool // the literal matches in any case
	index int  // in rules
}

// token describes credentials that announce themselves by a prefix.
type token struct {
	name     string
	prefixes []string
	chars    *class
	min, max int // characters after the prefix
	test     func(body []byte) bool
}

// class is a set of bytes.
type class [256]bool

func classOf(ranges string) *class {
	var c class
	for i := 0; i+1 < len(ranges); i += 2 {
		for b := int(ranges[i]); b <= int(ranges[i+1]); b++ {
			c[b] = true
		}
	}
	return &c
}

var (
	alnum     = classOf("azAZ09")
	word      = classOf("azAZ09__--")
	dotted    = classOf("azAZ09__--..")
	hexLower  = classOf("af09")
	upper     = classOf("AZ09")
	idBody    = classOf("09ahjkmnptvz") // Crockford's base 32
	base64Any = classOf("azAZ09++//__--==")
	basicBody = classOf("azAZ09++//==")
	anything  = classOf("\x00\xff")
	bearer    = classOf("azAZ09__--..~~++//==") // RFC 6750 section 2.1
)

const long = 1024 // longest body of a token that carries no structure

// tokens are the formats that providers publish so that scanners know them.
var tokens = []token{
	{"countersign-key", []string{"csk_"}, alnum, 20, 64, nil},
	{"countersign-token", []string{"csu_"}, alnum, 20, 64, nil},
	{"anthropic-key", []string{"sk-ant-"}, word, 20, long, nil},
	{"openai-key", []string{"sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"}, word, 20, long, nil},
	{"openai-key", []string{"sk-"}, word, 20, 200, randomLooking},
	{"google-key", []string{"AIza"}, word, 35, 35, nil},
	{"google-oauth", []string{"ya29.", "GOCSPX-"}, word, 20, long, nil},
	{"groq-key", []string{"gsk_"}, alnum, 40, 80, nil},
	{"huggingface-token", []string{"hf_"}, alnum, 30, 60, nil},
	{"huggingface-token", []string{"api_org_"}, alnum, 30, 60, nil},
	{"replicate-token", []string{"r8_"}, alnum, 30, 60, nil},
	{"xai-key", []string{"xai-"}, alnum, 60, 120, nil},
	{"perplexity-key", []string{"pplx-"}, alnum, 40, 80, nil},
	{"aws-access-key", []string{"AKIA", "ASIA"}, upper, 16, 16, nil},
	{"github-token", []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, alnum, 36, 255, nil},
	{"github-token", []string{"github_pat_"}, word, 50, 255, nil},
	{"gitlab-token", []string{"glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glft-", "glsoat-", "glagent-", "gloas-"}, dotted, 20, 300, nil},
	{"slack-token", []string{"xoxb-", "xoxp-", "xoxa-", "xoxo-", "xoxs-", "xoxr-", "xoxe-", "xoxe.xoxp-", "xoxe.xoxb-", "xapp-"}, word, 20, 400, nil},
	{"slack-webhook", []string{"hooks.slack.com/services/", "hooks.slack.com/workflows/", "hooks.slack.com/triggers/"}, classOf("azAZ09//"), 20, 120, nil},
	{"stripe-key", []string{"sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"}, classOf("azAZ09++//=="), 16, 250, nil},
	{"sendgrid-key", []string{"SG."}, dotted, 60, 80, nil},
	{"npm-token", []string{"npm_"}, alnum, 36, 64, nil},
	{"pypi-token", []string{"pypi-"}, word, 50, long, nil},
	{"databricks-token", []string{"dapi"}, hexLower, 32, 34, nil},
	{"digitalocean-token", []string{"dop_v1_", "doo_v1_", "dor_v1_"}, hexLower, 64, 64, nil},
	{"vault-token", []string{"hvs.", "hvb.", "hvr."}, word, 24, 300, nil},
	{"docker-token", []string{"dckr_pat_", "dckr_oat_"}, word, 20, 64, nil},
	{"linear-key", []string{"lin_api_", "lin_oauth_"}, alnum, 32, 64, nil},
	{"shopify-token", []string{"shpat_", "shpca_", "shppa_", "shpss_"}, alnum, 32, 64, nil},
	{"postman-key", []string{"PMAK-"}, word, 40, 80, nil},
	{"age-key", []string{"AGE-SECRET-KEY-1"}, upper, 58, 58, nil},
}

// shapes are the rules that need more than a prefix and a set of characters.
var shapes = []rule{
	{"aws-secret-key", "AKIA", nil, awsSecret, false, 0},
	{"aws-secret-key", "ASIA", nil, awsSecret, false, 0},
	{"twilio-key", "SK", hexLower, twilio, false, 0},
	{"jwt", "eyJ", alnum, jwt, false, 0},
	{"private-key", "-----BEGIN", nil, privateKey, false, 0},
	{"url-password", "://", userinfo, urlPassword, false, 0},
	{"authorization", "bearer", nil, bearerValue, true, 0},
	{"authorization", "basic", nil, basicValue, true, 0},
	{"password", "password", nil, assigned(8, strong), true, 0},
	{"password", "passwd", nil, assigned(6, strong), true, 0},
	{"password", "passphrase", nil, assigned(10, strong), true, 0},
	{"password", "pwd", anything, assigned(3, strong), true, 0},
	{"password", "_pass", nil, assigned(5, strong), true, 0},
	{"api-key", "api_key", nil, assigned(7, strong), true, 0},
	{"api-key", "api-key", nil, assigned(7, strong), true, 0},
	{"api-key", "apikey", nil, assigned(6, strong), true, 0},
	{"api-key", "access_key", nil, assigned(10, strong), true, 0},
	{"api-key", "accesskey", nil, assigned(9, strong), true, 0},
	{"api-key", "account_key", nil, assigned(11, weak), true, 0},
	{"api-key", "accountkey", nil, assigned(10, weak), true, 0},
	{"api-key", "private_key", nil, assigned(11, weak), true, 0},
	{"secret", "secret", nil, assigned(6, weak), true, 0},
	{"secret", "secret_key", nil, assigned(10, weak), true, 0},
	{"secret", "secretkey", nil, assigned(9, weak), true, 0},
	{"secret", "credential", nil, assigned(10, weak), true, 0},
	{"token", "token", nil, assigned(5, weak), true, 0},
}

// maxRuleName bounds the names of rules, in bytes.
const maxRuleName = 24

// shapeNames are the names of shapes; apart from them because their matchers
// have to know what a marker looks like.
var shapeNames = []string{"aws-secret-key", "twilio-key", "jwt", "private-key", "url-password", "authorization",
	"password", "api-key", "secret", "token"}

// ruleNames are all names that a marker may carry.
var ruleNames = func() map[string]bool {
	names := map[string]bool{KnownRule: true, unsafeRule: true, cardRule: true}
	for _, t := range tokens {
		names[t.name] = true
	}
	for _, n := range shapeNames {
		names[n] = true
	}
	return names
}()

var rules = func() []rule {
	var out []rule
	for _, t := range tokens {
		for _, p := range t.prefixes {
			out = append(out, rule{name: t.name, literal: p, next: t.chars, match: t.matcher(len(p))})
		}
	}
	return append(out, shapes...)
}()

// matcher returns the match function of a token with a prefix of n bytes.
func (t token) matcher(n int) func(b []byte, i int) (int, int, bool) {
	return func(b []byte, i int) (int, int, bool) {
		if i > 0 && alnum[b[i-1]] {
			return 0, 0, false
		}
		begin := i + n
		end := run(b, begin, t.chars, t.max)
		if end-begin < t.min || (t.min == t.max && end < len(b) && t.chars[b[end]]) {
			return 0, end, false
		}
		return i, end, t.test == nil || t.test(b[begin:end])
	}
}

// run returns the end of the bytes of chars that begin at i, at most limit.
func run(b []byte, i int, chars *class, limit int) int {
	stop := min(len(b), i+limit)
	for i < stop && chars[b[i]] {
		i++
	}
	return i
}

// The prefilter: a bit per hash of four bytes folded to lower case that some
// rule can begin with, and behind it the rules of that hash.
const (
	gramBits = 16
	gramMul  = 0x9E3779B1 // 2^32 divided by the golden ratio
	foldMask = 0x2020202020202020
)

type prefilter struct {
	bits   [1 << gramBits / 64]uint64
	index  [1 << gramBits]uint16 // into groups
	groups [][]*rule
}

var filter = buildFilter(rules)

// gramHash hashes the low four bytes of g, which must be folded.
func gramHash(g uint64) uint32 { return uint32(g) * gramMul >> (32 - gramBits) }

func buildFilter(rules []rule) *prefilter {
	byHash := map[uint32][]*rule{}
	for i := range rules {
		r := &rules[i]
		r.index = i
		var g [4]byte
		n := copy(g[:], r.literal)
		hashes := map[uint32]bool{}
		gramHashes(g, n, r.next, hashes)
		for h := range hashes {
			byHash[h] = append(byHash[h], r)
		}
	}
	f := &prefilter{groups: [][]*rule{nil}}
	same := map[string]uint16{} // few groups differ
	for h, group := range byHash {
		var key strings.Builder
		for _, r := range group {
			fmt.Fprint(&key, r.index, " ")
		}
		if same[key.String()] == 0 {
			same[key.String()] = uint16(len(f.groups))
			f.groups = append(f.groups, group)
		}
		f.bits[h>>6] |= 1 << (h & 63)
		f.index[h] = same[key.String()]
	}
	return f
}

// gramHashes adds the hashes of all grams that begin with the first n bytes of
// g and go on with bytes of next.
func gramHashes(g [4]byte, n int, next *class, into map[uint32]bool) {
	if n >= 4 {
		into[gramHash(uint64(binary.LittleEndian.Uint32(g[:]))|foldMask)] = true
		return
	}
	for c := range 256 {
		if next[c] {
			g[n] = byte(c)
			gramHashes(g, n+1, next, into)
		}
	}
}

// hunt is one pass of the rules over one text.
type hunt struct {
	b     []byte
	found []Finding
	seen  []int // per rule: where its last match ended, so that no run is walked twice
}

// scanRules appends what the rules find in b.
func scanRules(b []byte, found []Finding) []Finding {
	h := hunt{b: b, found: found}
	f := filter
	i := 0
	for ; i+8 <= len(b); i += 5 { // eight bytes hold five grams
		x := binary.LittleEndian.Uint64(b[i:]) | foldMask
		g0, g1, g2, g3, g4 := gramHash(x), gramHash(x>>8), gramHash(x>>16), gramHash(x>>24), gramHash(x>>32)
		if (f.bits[g0>>6]>>(g0&63)|f.bits[g1>>6]>>(g1&63)|f.bits[g2>>6]>>(g2&63)|f.bits[g3>>6]>>(g3&63)|f.bits[g4>>6]>>(g4&63))&1 == 0 {
			continue
		}
		for n := range 5 {
			if g := gramHash(x >> (8 * n)); f.bits[g>>6]&(1<<(g&63)) != 0 {
				h.at(i+n, f.groups[f.index[g]])
			}
		}
	}
	for ; i+4 <= len(b); i++ {
		g := gramHash(uint64(binary.LittleEndian.Uint32(b[i:])) | foldMask)
		if f.bits[g>>6]&(1<<(g&63)) != 0 {
			h.at(i, f.groups[f.index[g]])
		}
	}
	return h.found
}

func (h *hunt) at(i int, group []*rule) {
	for _, r := range group {
		if !r.begins(h.b[i:]) || (h.seen != nil && i < h.seen[r.index]) {
			continue
		}
		start, end, ok := r.match(h.b, i)
		if end > 0 {
			if h.seen == nil {
				h.seen = make([]int, len(rules))
			}
			h.seen[r.index] = end
		}
		if ok {
			h.found = append(h.found, Finding{Kind: Secret, Rule: r.name, Start: start, End: end})
		}
	}
}

// begins reports whether b begins with the rule's literal.
func (r *rule) begins(b []byte) bool {
	if len(b) < len(r.literal) {
		return false
	}
	if !r.fold {
		return string(b[:len(r.literal)]) == r.literal
	}
	for i := range len(r.literal) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != r.literal[i] {
			return false
		}
	}
	return true
}
