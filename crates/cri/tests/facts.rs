//! The definition in the repository is what the program makes of the table of facts.

#[path = "../examples/from_facts.rs"]
mod from_facts;

use std::path::Path;

#[test]
fn the_definition_is_what_the_facts_say() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let facts = here.join("../../../shared/reference/wire/cri.tsv");
    let Ok(facts) = std::fs::read_to_string(&facts) else {
        eprintln!("SKIP: the_definition_is_what_the_facts_say needs {}", facts.display());
        return;
    };
    let held = std::fs::read_to_string(here.join("proto/runtime_v1.proto")).expect("it is in the repository");
    let made = from_facts::definition_of(&facts).expect("the table is well formed");
    assert!(made == held, "run the example from_facts again, and look at what changed");
}

#[test]
fn a_broken_table_is_an_error() {
    assert!(from_facts::definition_of("p\tM\tfield\t1\tweird\tstring").is_err());
    assert!(from_facts::definition_of("p\tM").is_err());
}

#[test]
fn names_on_the_wire_are_those_of_the_interface() {
    assert_eq!(ferrokube_cri::v1::runtime_service_server::SERVICE_NAME, "runtime.v1.RuntimeService");
    assert_eq!(ferrokube_cri::v1::image_service_server::SERVICE_NAME, "runtime.v1.ImageService");
}
