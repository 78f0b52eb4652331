//! Reading without an agent.

use super::{Watched, bad_tier, file, policy, tier};
use crate::{DirectoryStore, Store};

#[test]
fn every_document_is_listed_with_its_place() {
    let watched = Watched::new();
    watched.write("b.yaml", &file(&[tier("t", 1), bad_tier("u")]));
    watched.write("sub/a.yaml", &policy("shop", "p", "Allow"));
    watched.write(".hidden.yaml", &tier("v", 1));
    let listing = DirectoryStore::new(watched.root()).list().unwrap();
    let (stored, problems) = (listing.resources, listing.problems);
    let places: Vec<_> = stored
        .iter()
        .map(|one| (one.key.to_string(), &*one.file, one.line))
        .collect();
    assert_eq!(
        places,
        [
            ("NetworkPolicy/shop/p".to_owned(), "sub/a.yaml", 1),
            ("Tier/t".to_owned(), "b.yaml", 1),
            ("Tier/u".to_owned(), "b.yaml", 8)
        ]
    );
    assert_eq!(
        stored.iter().map(|one| one.resource.is_some()).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(stored.first().unwrap().value["spec"]["selector"], "role == 'db'");
    assert_eq!(problems.errors().count(), 1);
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let watched = Watched::new();
    let error = DirectoryStore::new(watched.path("absent")).list().unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}

#[test]
fn the_same_resource_twice_is_a_problem() {
    let watched = Watched::new();
    watched.write("a.yaml", &tier("t", 1));
    watched.write("b.yaml", &tier("t", 2));
    let listing = DirectoryStore::new(watched.root()).list().unwrap();
    let (stored, problems) = (listing.resources, listing.problems);
    assert_eq!(stored.len(), 2);
    assert!(problems.list()[0].to_string().contains("a.yaml:1"));
}
