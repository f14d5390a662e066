//! Who may call what. Deny by default: a method without a row is refused.

use std::fmt;

/// What a peer may do. `Anonymous` is a peer without a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// No client certificate.
    Anonymous,
    /// Manages principals.
    Admin,
    /// Revokes, makes tokens, reads.
    Operator,
    /// Enrolls devices.
    Station,
    /// Renews and confirms its own certificate.
    Device,
    /// Reads.
    Auditor,
}

impl Role {
    /// Every role, for tests and listings.
    pub const ALL: [Self; 6] =
        [Self::Anonymous, Self::Admin, Self::Operator, Self::Station, Self::Device, Self::Auditor];

    /// The number that the wire and the journal use; anonymous has none.
    pub fn code(self) -> u32 {
        use proto::v1::Role as Wire;
        let wire = match self {
            Self::Anonymous => Wire::Unspecified,
            Self::Admin => Wire::Admin,
            Self::Operator => Wire::Operator,
            Self::Station => Wire::Station,
            Self::Device => Wire::Device,
            Self::Auditor => Wire::Auditor,
        };
        wire as u32
    }

    /// From the number; `None` for anything that is no role.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r != Self::Anonymous && r.code() == code)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Anonymous => 1,
            Self::Admin => 2,
            Self::Operator => 4,
            Self::Station => 8,
            Self::Device => 16,
            Self::Auditor => 32,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Station => "station",
            Self::Device => "device",
            Self::Auditor => "auditor",
        })
    }
}

const ANONYMOUS: u8 = Role::Anonymous.bit();
const ADMIN: u8 = Role::Admin.bit();
const OPERATOR: u8 = Role::Operator.bit();
const STATION: u8 = Role::Station.bit();
const DEVICE: u8 = Role::Device.bit();
const AUDITOR: u8 = Role::Auditor.bit();
const KNOWN: u8 = ADMIN | OPERATOR | STATION | DEVICE | AUDITOR;
const READERS: u8 = ADMIN | OPERATOR | AUDITOR;

/// Path and the roles that may call it. What of it a role sees (its own certificate, say) the handler decides.
const TABLE: &[(&str, u8)] = &[
    ("/sealwright.v1.EnrollmentService/BeginAttestation", ANONYMOUS | KNOWN),
    ("/sealwright.v1.EnrollmentService/Enroll", ANONYMOUS | STATION),
    ("/sealwright.v1.EnrollmentService/Renew", KNOWN),
    ("/sealwright.v1.EnrollmentService/ConfirmInstalled", KNOWN),
    ("/sealwright.v1.CertificateService/GetCertificate", READERS | STATION | DEVICE),
    ("/sealwright.v1.CertificateService/ListCertificates", READERS),
    ("/sealwright.v1.CertificateService/GetDevice", READERS | DEVICE),
    ("/sealwright.v1.CertificateService/ListDevices", READERS),
    ("/sealwright.v1.RevocationService/Revoke", ADMIN | OPERATOR),
    ("/sealwright.v1.RevocationService/GetStatus", READERS | STATION | DEVICE),
    ("/sealwright.v1.AuthorityService/ListIssuers", KNOWN),
    ("/sealwright.v1.AuthorityService/GetTrustBundle", ANONYMOUS | KNOWN),
    ("/sealwright.v1.AuthorityService/GetProfile", KNOWN),
    ("/sealwright.v1.AuthorityService/ListProfiles", KNOWN),
    ("/sealwright.v1.AccessService/CreatePrincipal", ADMIN),
    ("/sealwright.v1.AccessService/DisablePrincipal", ADMIN),
    ("/sealwright.v1.AccessService/ListPrincipals", ADMIN | AUDITOR),
    ("/sealwright.v1.AccessService/CreateEnrollmentToken", ADMIN | OPERATOR),
    // Health and reflection tell nothing of any tenant.
    ("/grpc.health.v1.Health/Check", ANONYMOUS | KNOWN),
    ("/grpc.health.v1.Health/Watch", ANONYMOUS | KNOWN),
    ("/grpc.health.v1.Health/List", ANONYMOUS | KNOWN),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANONYMOUS | KNOWN),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANONYMOUS | KNOWN),
];

/// The table's own spelling of a method's path, for logs and metrics; `None` for a method that does not exist.
pub fn method(path: &str) -> Option<&'static str> {
    TABLE.iter().find(|(known, _)| *known == path).map(|(known, _)| *known)
}

/// The method's own name, as errors and metrics carry it.
pub fn name(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether `role` may call the method at `path`.
pub fn allows(path: &str, role: Role) -> bool {
    TABLE.iter().any(|(known, roles)| *known == path && roles & role.bit() != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use prost::Message;

    fn methods_of_the_contract() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        set.file
            .iter()
            .filter(|f| f.package() == "sealwright.v1")
            .flat_map(|f| f.service.iter())
            .flat_map(|s| s.method.iter().map(move |m| format!("/sealwright.v1.{}/{}", s.name(), m.name())))
            .collect()
    }

    #[test]
    fn every_method_of_the_contract_has_a_row_and_no_row_lacks_a_method() {
        let methods = methods_of_the_contract();
        assert!(methods.len() >= 18);
        for path in &methods {
            assert!(method(path).is_some(), "{path} has no row");
            assert!(Role::ALL.iter().any(|r| allows(path, *r)), "{path} is open to nobody");
        }
        for (path, _) in TABLE.iter().filter(|(p, _)| p.starts_with("/sealwright.v1.")) {
            assert!(methods.iter().any(|m| m == path), "{path} does not exist");
        }
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        for role in Role::ALL {
            assert!(!allows("/sealwright.v1.AccessService/CreateTenant", role));
            assert!(!allows("", role));
        }
        assert!(!allows("/sealwright.v1.RevocationService/Revoke", Role::Station));
        assert!(!allows("/sealwright.v1.RevocationService/Revoke", Role::Anonymous));
        assert!(allows("/sealwright.v1.RevocationService/Revoke", Role::Operator));
    }

    #[test]
    fn role_codes_round_trip_and_zero_is_no_role() {
        for role in Role::ALL {
            assert_eq!(Role::from_code(role.code()), (role != Role::Anonymous).then_some(role));
        }
        assert_eq!(Role::from_code(99), None);
    }
}
