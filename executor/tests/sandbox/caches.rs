//! Cache directories that several steps use at the same moment.

use std::fs;
use std::path::PathBuf;

use executor::sandbox::*;

use crate::cases;
use crate::fixture::{Image, bind, handle, read_all, run, start, tree};

cases! {
    mount_points_in_a_shared_cache_outlive_the_step_that_made_them,
    steps_make_the_same_mount_point_in_a_shared_cache_at_once,
}

/// A directory mounted on `/cache` and another one on `/cache/inner`.
struct Nested {
    outer: PathBuf,
    inner: PathBuf,
}

impl Nested {
    fn new(image: &Image, number: usize) -> Nested {
        let [outer, inner] =
            ["outer", "inner"].map(|name| image.scratch.path().join(format!("{name}{number}")));
        fs::create_dir(&outer).expect("it can be made");
        fs::create_dir(&inner).expect("it can be made");
        Nested { outer, inner }
    }

    fn step(&self, image: &Image, script: &str) -> StepSpec {
        let mut spec = image.shell(script);
        spec.mounts = vec![
            bind("/cache", handle(&self.outer), Access::ReadWrite),
            bind("/cache/inner", handle(&self.inner), Access::ReadWrite),
        ];
        spec
    }
}

/// rmdir(2) on a mount point of another mount namespace succeeds and detaches what is mounted there.
fn mount_points_in_a_shared_cache_outlive_the_step_that_made_them(spawner: &Spawner) {
    let image = Image::new();
    let nested = Nested::new(&image, 0);
    let wait = |name: &str| format!("while [ ! -e /cache/{name} ]; do sleep 0.02; done");
    let maker = nested.step(&image, &wait("user"));
    let (maker, maker_output) = start(spawner, &maker);
    let script = format!("touch /cache/user; {}; touch /cache/inner/x; ls /cache/inner", wait("gone"));
    let user = nested.step(&image, &script);
    let (user, user_output) = start(spawner, &user);
    assert_eq!(maker.expect("it starts").wait().expect("it ends").status, ExitStatus::Code(0));
    fs::write(nested.outer.join("gone"), "").expect("it can be written");
    assert_eq!(user.expect("it starts").wait().expect("it ends").status, ExitStatus::Code(0));
    assert_eq!((read_all(maker_output), read_all(user_output)), (String::new(), "x\n".to_owned()));
    assert_eq!(tree(&nested.inner), ["/x"]);
    assert_eq!(tree(&nested.outer), ["/gone", "/inner", "/user"]);
}

fn steps_make_the_same_mount_point_in_a_shared_cache_at_once(spawner: &Spawner) {
    for number in 0..20 {
        let image = Image::new();
        let nested = Nested::new(&image, number);
        let specs = [1, 2, 3, 4].map(|step| nested.step(&image, &format!("touch /cache/inner/{step}")));
        std::thread::scope(|scope| {
            for spec in specs {
                scope.spawn(move || run(spawner, spec).success().to_owned());
            }
        });
        assert_eq!(tree(&nested.inner), ["/1", "/2", "/3", "/4"]);
    }
}
