//! Keys that are not what they were: refused by name, and nothing stays wrong when the token is right again.

use crate::rig::{Rig, alone, back, id, request, sign};
use hsm::HsmError;

/// Makes the layer look for its key anew.
const LOOK: &str = "C_SignInit once ckr=CKR_KEY_HANDLE_INVALID\n";

fn refused(plan: &str, is_named: fn(&HsmError) -> bool) {
    let _alone = alone();
    let rig = Rig::new();
    let (token, key) = rig.open(rig.with(rig.one()));
    token.generate(&request(2)).unwrap();
    sign(&token, &key, b"before").unwrap();
    rig.plan(&format!("{LOOK}{plan}"));
    for _ in 0..5 {
        let error = sign(&token, &key, b"meanwhile").unwrap_err();
        assert!(is_named(&error), "{error:?}");
    }
    rig.plan("");
    sign(&token, &key, b"after").unwrap();
    // One broken answer of the token is not kept either.
    rig.plan(&format!("{LOOK}{}", plan.replace("always", "once")));
    let _ = sign(&token, &key, b"once");
    back(&token, &key);
    assert!(!rig.faults().is_empty());
}

#[test]
fn a_swapped_key_signs_nothing() {
    refused("C_FindObjects always swap-keys\n", |e| {
        matches!(e, HsmError::WrongSignature | HsmError::KeyMismatch { .. })
    });
}

#[test]
fn a_double_key_signs_nothing() {
    refused(
        "C_FindObjects always double-key\n",
        |e| matches!(e, HsmError::KeyAmbiguous { id: of, .. } if *of == id(1)),
    );
}

#[test]
fn an_extractable_key_signs_nothing() {
    refused(
        "C_GetAttributeValue always extractable\n",
        |e| matches!(e, HsmError::KeyUnsuitable { reason, .. } if reason == "CKA_EXTRACTABLE is true"),
    );
}
