//! The page behind a hold's link. It says the same for every id: whoever has a link learns nothing from it, and nothing
//! can be done on it.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>Countersign</title>
</head>
<body>
<h1>A call waits for a countersignature</h1>
<p>This page shows nothing and decides nothing: opening it approves nothing. If you are an approver, look at the call
and decide on it in a terminal on the machine that runs Countersign. The id is the last part of this page's address.</p>
<pre>countersign hold list
countersign hold show ID
countersign hold approve ID
countersign hold deny ID --reason \"why not\"</pre>
<p>Programs use the API: <code>/api/v1/openapi.json</code> describes it.</p>
</body>
</html>
";

/// The page, whatever the id.
pub(super) async fn hold() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}
