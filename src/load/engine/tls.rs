//! TLS as bytes in and bytes out (rustls).

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Result};

/// How to speak TLS: the system's authorities and those of `ca`, or no check at all.
///
/// # Errors
/// `Usage` when `ca` cannot be read or has no certificate.
pub fn config(ca: Option<&Path>, insecure: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::usage("TLS cannot be spoken").caused_by(e))?;
    if insecure {
        let anybody = Arc::new(Anybody(provider));
        return Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()));
    }
    let mut roots = RootCertStore::empty();
    for root in rustls_native_certs::load_native_certs().certs {
        // One odd certificate among the system's does not matter.
        drop(roots.add(root));
    }
    if let Some(path) = ca {
        let wrong = |e: String| Error::usage(format!("cannot read authorities from {}: {e}", path.display()));
        let mut found = 0;
        for cert in CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))? {
            let cert = cert.map_err(|e| wrong(e.to_string()))?;
            roots.add(cert).map_err(|e| wrong(e.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Why TLS is broken, in the words that users see; those of the library where they say it as well.
pub fn tls_words(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    use rustls::Error as E;
    match error {
        E::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => "the server does not speak TLS".to_owned(),
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            format!("the certificate is for another name ({error})")
        }
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            format!("the certificate has expired ({error})")
        }
        E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            format!("the certificate is not valid yet ({error})")
        }
        E::InvalidCertificate(C::UnknownIssuer) => {
            "the certificate is of an authority that is not trusted (--ca FILE trusts one, --insecure any)".to_owned()
        }
        E::AlertReceived(alert) => format!("the server refused the handshake ({alert:?})"),
        other => other.to_string(),
    }
}

/// Trusts every certificate (`--insecure`), but still wants the server to own the key it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
