package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// maxKeyFile bounds a file of age keys, in bytes.
const maxKeyFile = 1 << 20

// Recipients reads age recipients (age1…), as age-keygen prints them.
func Recipients(texts []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, t := range texts {
		found, err := age.ParseRecipients(strings.NewReader(t))
		if err != nil {
			return nil, fmt.Errorf("%.80q is no age recipient (age1…): make a key with age-keygen", t)
		}
		out = append(out, found...)
	}
	if len(out) == 0 {
		return nil, errors.New("no recipient: a backup is never written in plain")
	}
	return out, nil
}

// Identities reads a file of age keys (AGE-SECRET-KEY-1…).
func Identities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := age.ParseIdentities(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("%s holds no age key (AGE-SECRET-KEY-1…)", path) // the cause may show a line of it
	}
	return found, nil
}
