package client

import (
	"context"
	"net/http"
	"time"
)

// Channel is a way to tell people about held calls.
type Channel struct {
	ID      string      `json:"id"`
	Name    string      `json:"name"`
	Spec    ChannelSpec `json:"spec"`
	Waiting int64       `json:"waiting"` // messages that it has not taken yet
	Dead    int64       `json:"dead"`    // messages that it never took
	Error   string      `json:"error,omitempty"`
	Created time.Time   `json:"created"`
	Updated time.Time   `json:"updated"`
}

// ChannelSpec is what a person says of a channel.
type ChannelSpec struct {
	Kind         string   `json:"kind"` // webhook, slack, notice
	Owner        string   `json:"owner"`
	URL          string   `json:"url,omitempty"`
	Secret       string   `json:"secret"`
	Signing      string   `json:"signing_secret,omitempty"`
	Room         string   `json:"room,omitempty"`
	Groups       []string `json:"groups,omitempty"`
	What         []string `json:"what,omitempty"`
	People       bool     `json:"people,omitempty"`
	Contents     bool     `json:"contents,omitempty"`
	AllowPrivate bool     `json:"allow_private,omitempty"`
}

// ChannelTest is the result of a test message.
type ChannelTest struct {
	ID    string `json:"id"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// ChannelLink is a code with which the caller links their account in a chat.
type ChannelLink struct {
	ID    string    `json:"id"`
	Code  string    `json:"code"`
	Until time.Time `json:"until"`
	Say   string    `json:"say"` // what to write in the chat
}

// Channels lists channels, by name.
func (c *Client) Channels(ctx context.Context) ([]Channel, error) {
	return get[[]Channel](ctx, c, v1+"/channels", nil)
}

// Channel returns one channel.
func (c *Client) Channel(ctx context.Context, name string) (Channel, error) {
	return get[Channel](ctx, c, v1+"/channels"+segment(name), nil)
}

// PutChannel adds or changes a channel.
func (c *Client) PutChannel(ctx context.Context, name string, spec ChannelSpec) (Channel, error) {
	return send[Channel](ctx, c, http.MethodPut, v1+"/channels"+segment(name), spec)
}

// DeleteChannel removes a channel.
func (c *Client) DeleteChannel(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/channels"+segment(name), nil, nil, nil)
}

// TestChannel sends a message through a channel.
func (c *Client) TestChannel(ctx context.Context, name string) (ChannelTest, error) {
	return send[ChannelTest](ctx, c, http.MethodPost, v1+"/channels"+segment(name)+"/test", struct{}{})
}

// LinkChannel returns a code that links the caller's account in a channel's
// chat to the caller.
func (c *Client) LinkChannel(ctx context.Context, name string) (ChannelLink, error) {
	return send[ChannelLink](ctx, c, http.MethodPost, v1+"/channels"+segment(name)+"/link", struct{}{})
}

// UnlinkChannel ends what LinkChannel began.
func (c *Client) UnlinkChannel(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/channels"+segment(name)+"/link", nil, nil, nil)
}
