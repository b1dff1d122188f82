package inspection

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
	begun bool // match wants no letter or digit before the literal
	kind  Kinds
	index int // in rules
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

// shapes are the rules that need more than a prefix and a set of characters.
var shapes = []rule{
	{name: "aws-secret-key", literal: "AKIA", match: awsSecret},
	{name: "aws-secret-key", literal: "ASIA", match: awsSecret},
	{name: "twilio-key", literal: "SK", next: hexLower, match: twilio, begun: true},
	{name: "jwt", literal: "eyJ", next: alnum, match: jwt, begun: true},
	{name: "private-key", literal: "-----BEGIN", match: privateKey},
	{name: "url-password", literal: "://", next: userinfo, match: urlPassword},
	{name: "telegram-token", literal: ":AA", next: word, match: telegram},
	{name: "telegram-token", literal: "telegram", match: telegramNear, fold: true},
	{name: "1password-key", literal: "A3-", next: upper, match: onePassword, begun: true},
	{name: "discord-webhook", literal: "/api/webhooks/", match: after(len("/api/webhooks/"), classOf("azAZ09__--//"), 60)},
	{name: "teams-webhook", literal: ".webhook.office.com/webhookb2/", match: after(len(".webhook.office.com/webhookb2/"), classOf("azAZ09__--//@@"), 60)},
	{name: "mailchimp-key", literal: "-us", next: classOf("09"), match: mailchimp},
	{name: "authorization", literal: "bearer", match: bearerValue, fold: true},
	{name: "authorization", literal: "basic", match: basicValue, fold: true},
	{name: "password", literal: "curl", match: curlUser},
	{name: "secret", literal: "contribsys__com", match: assigned(len("contribsys__com"), loose), fold: true},
}

// names are the words in the names of values that are secrets, and how much
// such a name proves by itself.
var names = []struct {
	rule  string
	words []string
	proof strength
}{
	{"password", []string{"password", "passwd", "passphrase", "pwd", "_pass", "-pass", "\"pass"}, strong},
	{"api-key", []string{"api_key", "api-key", "apikey", "access_key", "access-key", "accesskey"}, strong},
	{"api-key", []string{"account_key", "accountkey", "private_key", "privatekey", "signing_key", "signingkey", "encryption_key", "encryptionkey", "license_key", "licensekey"}, weak},
	{"secret", []string{"secret", "credential"}, weak},
	{"token", []string{"token", "authorization", "session_id", "sessionid", "_session"}, weak},
	{"api-key", []string{"_key", "-key"}, faint},
	{"token", []string{"_auth", "-auth"}, faint},
}

// maxRuleName bounds the names of rules, in bytes.
const maxRuleName = 24

// shapeNames are the names of shapes; apart from them because their matchers
// have to know what a marker looks like.
var shapeNames = []string{"aws-secret-key", "twilio-key", "jwt", "private-key", "url-password", "authorization",
	"password", "api-key", "secret", "token", "telegram-token", "azure-secret", "1password-key", "discord-webhook",
	"teams-webhook", "mailchimp-key", "email", "phone", "iban", "ssn", "cpf", "nir", "codice-fiscale", "dni", "pesel", "personnummer",
	"steuer-id", "nhs-number", "aadhaar", "bsn", "sin", "instruction", "hidden-text", "markup-fetch", "model-markup", "tool-instruction"}

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
			out = append(out, rule{name: t.name, literal: p, next: t.chars, match: t.matcher(len(p)), begun: true})
		}
	}
	out = append(out, shapes...)
	for _, n := range names {
		for _, w := range n.words {
			out = append(out, rule{name: n.rule, literal: w, next: anything, match: assigned(len(w), n.proof), fold: true})
		}
	}
	for i := range out {
		out[i].kind = Secrets
	}
	out = append(out, injectionRules()...)
	for i := range out {
		out[i].index = i
	}
	return out
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
		return i, end, varied(b[begin:end]) && (t.test == nil || t.test(b[begin:end]))
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
