//! HTTPS to the authority: what we trust is the system's, what it answers is bounded in time and size.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;

use crate::limits;

#[derive(Clone)]
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    /// How long an authority that refused has told us to wait.
    told: Arc<Mutex<Option<Duration>>>,
}

impl Client {
    pub fn new(tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        Self { pool: Pool::builder(TokioExecutor::new()).build(connector), told: Arc::default() }
    }

    /// What the last refusal said, once.
    pub fn told_to_wait(&self) -> Option<Duration> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let answer = self.pool.request(request);
        let told = self.told.clone();
        Box::pin(async move {
            let whole = async { collect(answer.await.map_err(other)?).await };
            let answer = tokio::time::timeout(limits::ACME_ANSWER, whole).await.map_err(other)??;
            if answer.status().is_client_error() || answer.status().is_server_error() {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = retry_after(answer.headers(), SystemTime::now());
            }
            Ok(BytesResponse::from(answer))
        })
    }
}

async fn collect(answer: Response<Incoming>) -> Result<Response<Full<Bytes>>, Error> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, limits::ACME_ANSWER_MAX).collect().await.map_err(Error::Other)?;
    Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
}

fn other(error: impl StdError + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn authorities_say_how_long_in_two_ways() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        for nonsense in ["Sun, 06 Nov 1994 08:49:36 GMT", "-1", "soon", "", "99999999999999999999"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
