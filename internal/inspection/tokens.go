package inspection

import "bytes"

// tokens are the formats that providers publish so that scanners know them.
var tokens = []token{
	// Our own, and of AI providers.
	{"countersign-key", []string{"csk_"}, alnum, 20, 64, nil},
	{"countersign-token", []string{"csu_"}, alnum, 20, 64, nil},
	{"anthropic-key", []string{"sk-ant-"}, word, 20, long, nil},
	{"openai-key", []string{"sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-", "sk-or-v1-"}, word, 20, long, nil},
	{"openai-key", []string{"sk-"}, word, 20, 200, randomLooking},
	{"google-key", []string{"AIza"}, word, 35, 35, nil},
	{"google-oauth", []string{"ya29.", "GOCSPX-"}, word, 20, long, nil},
	{"groq-key", []string{"gsk_"}, alnum, 40, 80, nil},
	{"huggingface-token", []string{"hf_", "api_org_"}, alnum, 30, 60, mixed},
	{"replicate-token", []string{"r8_"}, alnum, 30, 60, nil},
	{"xai-key", []string{"xai-"}, word, 60, 120, nil},
	{"perplexity-key", []string{"pplx-"}, alnum, 40, 80, nil},
	{"ai-key", []string{"csk-", "nvapi-", "tgp_v1_", "tvly-", "fw_", "lsv2_pt_", "lsv2_sk_", "rpa_", "psk_", "jina_", "wandb_v1_", "apify_api_", "fc-", "BSA"}, word, 27, 200, random},
	{"aws-bedrock-key", []string{"bedrock-api-key-", "ABSK"}, base64Any, 20, long, random},

	// Clouds.
	{"aws-access-key", []string{"AKIA", "ASIA", "ABIA", "ACCA", "A3T"}, upper, 16, 17, nil},
	{"alibaba-key", []string{"LTAI"}, alnum, 16, 24, random},
	{"yandex-key", []string{"AQVN", "YCAJ", "YCM", "t1.9", "y0_"}, dotted, 34, 250, random},
	{"digitalocean-token", []string{"dop_v1_", "doo_v1_", "dor_v1_"}, hexLower, 64, 64, nil},
	{"cloudflare-key", []string{"v1.0-"}, classOf("az09--"), 100, 200, random},
	{"cloudflare-key", []string{"cfut_", "cfat_", "cfk_"}, word, 30, 80, random},
	{"heroku-key", []string{"HRKU-"}, word, 36, 80, random},
	{"flyio-token", []string{"FlyV1 ", "fm1r_", "fm1a_", "fm2_", "fo1_"}, classOf("azAZ09__--++//==,,"), 40, 4 * long, random},
	{"vercel-token", []string{"vcp_", "vci_", "vca_", "vcr_", "vck_"}, alnum, 24, 80, random},
	{"netlify-token", []string{"nfp_"}, alnum, 36, 60, random},
	{"render-key", []string{"rnd_"}, alnum, 24, 60, random},
	{"supabase-key", []string{"sbp_", "sb_secret_"}, word, 20, 80, random},
	{"planetscale-token", []string{"pscale_tkn_", "pscale_pw_", "pscale_oauth_"}, classOf("azAZ09__--..=="), 32, 80, nil},
	{"databricks-token", []string{"dapi"}, classOf("af09--"), 32, 36, nil},
	{"terraform-token", []string{"atlasv1."}, classOf("azAZ09__--=="), 40, 100, nil},
	{"pulumi-token", []string{"pul-"}, hexLower, 40, 40, nil},
	{"scalingo-token", []string{"tk-us-"}, word, 40, 60, nil},
	{"tailscale-key", []string{"tskey-"}, word, 20, 120, random},
	{"openshift-token", []string{"sha256~"}, word, 43, 60, nil},
	{"swarm-token", []string{"SWMTKN-1-", "SWMKEY-1-"}, classOf("azAZ09--++//"), 25, 120, nil},
	{"dynatrace-token", []string{"dt0c01."}, dotted, 60, 120, nil},
	{"vault-token", []string{"hvs.", "hvb.", "hvr."}, word, 24, 300, random},

	// Code, packages, builds.
	{"github-token", []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, alnum, 36, 255, nil},
	{"github-token", []string{"github_pat_"}, word, 50, 255, nil},
	{"gitlab-token", []string{"glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glft-", "glsoat-", "glagent-", "gloas-", "glimt-", "glffct-", "GR1348941"}, dotted, 20, 300, nil},
	{"npm-token", []string{"npm_"}, alnum, 36, 64, nil},
	{"pypi-token", []string{"pypi-"}, word, 50, long, nil},
	{"rubygems-key", []string{"rubygems_"}, hexLower, 48, 48, nil},
	{"clojars-token", []string{"CLOJARS_"}, alnum, 60, 60, nil},
	{"crates-token", []string{"cio"}, alnum, 32, 32, random},
	{"docker-token", []string{"dckr_pat_", "dckr_oat_"}, word, 20, 64, nil},
	{"artifactory-token", []string{"AKCp", "cmVmdGtu"}, alnum, 55, 80, random},
	{"sourcegraph-token", []string{"sgp_"}, word, 40, 80, nil},
	{"circleci-token", []string{"CCIPAT_", "CCIPRJ_"}, word, 40, 100, random},
	{"buildkite-token", []string{"bkua_", "bkpi_", "bkaj_"}, alnum, 40, 60, nil},
	{"sonar-token", []string{"squ_", "sqp_", "sqa_"}, alnum, 40, 40, nil},
	{"octopus-key", []string{"API-"}, classOf("AZ09"), 26, 26, random},
	{"doppler-token", []string{"dp.pt.", "dp.st.", "dp.ct.", "dp.sa.", "dp.scim.", "dp.audit."}, dotted, 40, 80, nil},
	{"infracost-token", []string{"ico-"}, alnum, 32, 32, random},
	{"prefect-key", []string{"pnu_", "pnb_"}, alnum, 36, 36, nil},
	{"postman-key", []string{"PMAK-"}, word, 40, 80, nil},
	{"readme-key", []string{"rdme_"}, alnum, 70, 70, nil},
	{"linear-key", []string{"lin_api_", "lin_oauth_"}, alnum, 32, 64, nil},
	{"launchdarkly-key", []string{"sdk-", "api-", "mob-"}, classOf("af09--"), 36, 36, random},
	{"age-key", []string{"AGE-SECRET-KEY-1"}, upper, 58, 58, nil},
	{"1password-token", []string{"ops_eyJ"}, base64Any, 200, 4 * long, nil},
	{"harness-key", []string{"pat.", "sat."}, dotted, 60, 80, random},

	// What watches.
	{"grafana-token", []string{"glc_", "glsa_"}, classOf("azAZ09__++//=="), 32, 400, random},
	{"sentry-token", []string{"sntrys_", "sntryu_"}, classOf("azAZ09__++//=="), 60, 400, nil},
	{"newrelic-key", []string{"NRAK-", "NRJS-", "NRII-", "NRAL-"}, word, 19, 40, nil},
	{"posthog-key", []string{"phc_", "phx_"}, word, 40, 60, random},
	{"logfire-token", []string{"pylf_v"}, word, 40, 80, random},

	// Business.
	{"slack-token", []string{"xoxb-", "xoxp-", "xoxa-", "xoxo-", "xoxs-", "xoxr-", "xoxe-", "xoxc-", "xoxd-", "xoxe.xoxp-", "xoxe.xoxb-", "xapp-"}, classOf("azAZ09__--%%++//"), 20, 400, nil},
	{"slack-webhook", []string{"hooks.slack.com/services/", "hooks.slack.com/workflows/", "hooks.slack.com/triggers/"}, classOf("azAZ09//"), 20, 120, nil},
	{"atlassian-token", []string{"ATATT3", "ATCTT3", "ATBB"}, classOf("azAZ09__--=="), 28, 250, random},
	{"stripe-key", []string{"sk_live_", "sk_test_", "sk_prod_", "rk_live_", "rk_test_", "rk_prod_", "whsec_"}, classOf("azAZ09++//=="), 16, 250, nil},
	{"square-token", []string{"sq0atp-", "sq0csp-", "EAAA"}, word, 22, 80, random},
	{"flutterwave-key", []string{"FLWPUBK_TEST-", "FLWSECK_TEST-", "FLWPUBK-", "FLWSECK-"}, word, 12, 50, nil},
	{"payment-key", []string{"shippo_live_", "shippo_test_", "duffel_live_", "duffel_test_", "live_pub_", "test_pub_", "key_live_", "key_test_", "EZAK", "EZTK", "pdl_live_"}, classOf("azAZ09__--=="), 31, 90, random},
	{"facebook-token", []string{"EAAM", "EAAC"}, alnum, 80, 300, random},
	{"shopify-token", []string{"shpat_", "shpca_", "shppa_", "shpss_"}, alnum, 32, 64, nil},
	{"sendgrid-key", []string{"SG."}, classOf("azAZ09__--..=="), 60, 80, nil},
	{"brevo-key", []string{"xkeysib-", "xsmtpsib-"}, word, 60, 120, nil},
	{"mailgun-key", []string{"key-", "pubkey-"}, hexLower, 32, 32, random},
	{"hubspot-token", []string{"pat-na1-", "pat-eu1-"}, word, 32, 50, nil},
	{"notion-token", []string{"ntn_"}, alnum, 40, 60, random},
	{"figma-token", []string{"figd_", "figu_"}, word, 38, 60, nil},
	{"mapbox-token", []string{"pk.eyJ", "sk.eyJ"}, dotted, 60, 400, nil},
	{"typeform-token", []string{"tfp_"}, classOf("azAZ09__--..=="), 40, 70, nil},
	{"contentful-token", []string{"CFPAT-"}, word, 40, 60, nil},
	{"settlemint-token", []string{"sm_aat_", "sm_pat_", "sm_sat_"}, alnum, 16, 16, nil},
	{"frameio-token", []string{"fio-u-"}, classOf("azAZ09__--=="), 60, 70, nil},
	{"service-token", []string{"dnkey-", "mdb_sa_sk_", "mdb_sa_id_", "essu_", "ion_", "sec_live_", "ak_live_", "oy2", "ssk_", "lip_", "ory_at_"}, classOf("azAZ09__--=="), 20, 120, random},
}

// varied reports whether b is more than a placeholder such as "xxxxxxxx".
func varied(b []byte) bool {
	return distinct(b) >= min(6, (len(b)+1)/2) && !bytes.Contains(b, []byte("EXAMPLE"))
}

// mixed reports whether b has letters and digits, or more capitals among its
// letters than the names of things have.
func mixed(b []byte) bool {
	return count(b, isLower) > 0 && (count(b, isDigit) > 0 || count(b, isUpper)*4 >= len(b))
}

// random reports whether b looks drawn by chance.
func random(b []byte) bool {
	return count(b, isDigit) >= 2 && distinct(b) >= 8 && entropy(b) >= 3 && !nameLike(b)
}
