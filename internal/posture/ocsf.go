package posture

import "slices"

// The part of OCSF 1.8 that Compliance Finding (class 2003) needs here.
type (
	ocsfFinding struct {
		Activity     int            `json:"activity_id"`
		ActivityName string         `json:"activity_name"`
		Category     int            `json:"category_uid"`
		CategoryName string         `json:"category_name"`
		Class        int            `json:"class_uid"`
		ClassName    string         `json:"class_name"`
		Type         int            `json:"type_uid"`
		Severity     int            `json:"severity_id"`
		Status       int            `json:"status_id"`
		Time         int64          `json:"time"`
		Message      string         `json:"message"`
		Metadata     ocsfMetadata   `json:"metadata"`
		Info         ocsfInfo       `json:"finding_info"`
		Compliance   ocsfCompliance `json:"compliance"`
		Resources    []ocsfResource `json:"resources,omitzero"`
		Unmapped     map[string]any `json:"unmapped"`
	}
	ocsfMetadata struct {
		Version string `json:"version"`
		UID     string `json:"uid"`
		Product struct {
			Name    string `json:"name"`
			Vendor  string `json:"vendor_name"`
			Version string `json:"version"`
		} `json:"product"`
	}
	ocsfInfo struct {
		UID     string   `json:"uid"`
		Title   string   `json:"title"`
		Desc    string   `json:"desc"`
		Created int64    `json:"created_time"`
		Types   []string `json:"types"`
	}
	ocsfCompliance struct {
		Control      string      `json:"control"`
		Desc         string      `json:"desc"`
		Standards    []string    `json:"standards"`
		Requirements []string    `json:"requirements"`
		Status       string      `json:"status"`
		StatusID     int         `json:"status_id"`
		Details      []string    `json:"status_details,omitzero"`
		Checks       []ocsfCheck `json:"checks"`
	}
	ocsfCheck struct {
		Name     string `json:"name"`
		Desc     string `json:"desc"`
		Status   string `json:"status"`
		StatusID int    `json:"status_id"`
		UID      string `json:"uid"`
	}
	ocsfResource struct {
		UID  string `json:"uid"`
		Name string `json:"name"`
		Type string `json:"type"`
	}
)

// ocsfStatus is what OCSF calls a result: Warning is "no result due to missing
// information".
func ocsfStatus(r Result) (int, string) {
	switch r {
	case Pass:
		return 1, "Pass"
	case NoData:
		return 2, "Warning"
	case Fail:
		return 3, "Fail"
	}
	return 99, string(r)
}

// ocsf returns a compliance finding for each result, one a line.
func (d *document) ocsf() ([]byte, error) {
	var out []ocsfFinding
	for _, e := range d.Evidence {
		out = append(out, d.ocsfFinding(e))
	}
	return lines(out)
}

func (d *document) ocsfFinding(e Stored) ocsfFinding {
	result, why := e.At(d.Exported)
	f := ocsfFinding{Activity: 1, ActivityName: "Create", Category: 2, CategoryName: "Findings", Class: 2003, ClassName: "Compliance Finding", Type: 200301, Severity: 1, Status: 1,
		Time: e.Collected.UnixMilli(), Message: e.Predicate + " " + string(result) + ": " + e.Name}
	if result == Fail {
		f.Severity = 3
	}
	f.Metadata.Version, f.Metadata.UID = "1.8.0", e.ID
	f.Metadata.Product.Name, f.Metadata.Product.Vendor, f.Metadata.Product.Version = "Countersign", "Countersign", d.Version
	f.Info = ocsfInfo{e.ID, e.Predicate + " " + e.Name, e.Limits, e.Collected.UnixMilli(), []string{e.Kind}}
	c := &f.Compliance
	c.Control, c.Desc, c.Standards, c.Requirements, c.Checks = e.Predicate+" "+e.Name, e.Limits, []string{}, []string{}, []ocsfCheck{}
	c.StatusID, c.Status = ocsfStatus(result)
	if why != "" {
		c.Details = []string{why}
	}
	for _, l := range d.links {
		if l.Predicate != e.Predicate {
			continue
		}
		c.Requirements = append(c.Requirements, l.Ref())
		if !slices.Contains(c.Standards, l.Framework) {
			c.Standards = append(c.Standards, l.Framework)
		}
	}
	for _, k := range e.Checks {
		check := ocsfCheck{Name: k.Name, Desc: k.Asks, UID: e.Predicate + "/" + k.Name}
		check.StatusID, check.Status = ocsfStatus(k.Result)
		c.Checks = append(c.Checks, check)
		for _, v := range k.Violations {
			f.Resources = append(f.Resources, ocsfResource{v.Object, v.Object, kindOf(v.Object)})
		}
	}
	f.Unmapped = map[string]any{"population": e.Population, "evaluated": e.Evaluated, "violated": e.Violated, "expires": e.Expires, "event": e.Event, "digest": e.Digest, "result": result}
	return f
}

// kindOf is the kind of an object: agent/payer is an agent.
func kindOf(object string) string {
	for i, c := range object {
		if c == '/' || c == ' ' {
			return object[:i]
		}
	}
	return object
}
