package secrets

import (
	"bytes"
	"net/url"
)

// learn makes a value known to the matcher; of a URL its password as well,
// which programs are given or print alone.
func learn(m Matcher, name string, v Value) {
	b := v.Expose()
	m.Add(name, b)
	if len(b) > maxURL || !bytes.Contains(b, []byte("://")) {
		return
	}
	u, err := url.Parse(string(b))
	if err != nil {
		return
	}
	if password, ok := u.User.Password(); ok && len(password) >= MinValue {
		m.Add(name, []byte(password))
	}
}

const maxURL = 4096
