package manifest

import (
	"slices"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/channels"
)

// ChannelSpec is a way to tell people about held calls.
type ChannelSpec struct {
	Kind         string   `yaml:"kind" need:"true"`
	Owner        string   `yaml:"owner" need:"true"`
	URL          string   `yaml:"url,omitempty"`
	Secret       string   `yaml:"secret" need:"true"`
	Signing      string   `yaml:"signing_secret,omitempty"`
	Room         string   `yaml:"room,omitempty"`
	Groups       []string `yaml:"groups,omitempty"`
	What         []string `yaml:"what,omitempty"`
	People       bool     `yaml:"people,omitempty"`
	Contents     bool     `yaml:"contents,omitempty"`
	AllowPrivate bool     `yaml:"allow_private,omitempty"`
}

func (s *ChannelSpec) channel(name string) channels.Channel {
	c := channels.Channel{Name: name, Spec: channels.Spec{Kind: s.Kind, Owner: s.Owner, URL: s.URL, Secret: s.Secret, Signing: s.Signing, Room: s.Room,
		Groups: slices.Clone(s.Groups), People: s.People, Contents: s.Contents, AllowPrivate: s.AllowPrivate}}
	for _, w := range s.What {
		c.What = append(c.What, approvals.What(w))
	}
	return c
}

func channelSpec(c channels.Channel) *ChannelSpec {
	s := &ChannelSpec{Kind: c.Kind, Owner: c.Owner, URL: c.URL, Secret: c.Secret, Signing: c.Signing, Room: c.Room, Groups: c.Groups, People: c.People,
		Contents: c.Contents, AllowPrivate: c.AllowPrivate}
	for _, w := range c.What {
		s.What = append(s.What, string(w))
	}
	return s
}
