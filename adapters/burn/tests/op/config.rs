//! Settings and modules that are saved and loaded.

use ala_loss::{Input, Objective, Reduction};
use ala_loss_burn::{AlaLoss, AlaLossConfig, CosineHead, CosineHeadConfig};
use burn::config::Config;
use burn::module::Module;
use burn::tensor::Device;

use crate::cases::{ROWS, integers, matrix, numbers, objectives};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_config_comes_back_as_it_was_saved() {
    let folder = folder();
    for objective in objectives() {
        let config = AlaLossConfig::new([9, 4, 1])
            .with_objective(objective)
            .with_scale(12.5)
            .with_input(Input::PreScaled)
            .with_reduction(Reduction::None)
            .with_ignore_label(-7)
            .with_class_weights([1.0, 0.5, 2.0])
            .with_label_smoothing(0.1)
            .with_loss_scale(8.0);
        let file = folder.path().join("loss.json");
        config.save(&file).expect("written");
        assert_eq!(AlaLossConfig::load(&file).expect("read"), config);
    }
}

#[test]
fn every_setting_reaches_the_loss() {
    let loss = AlaLossConfig::new([9, 4, 1])
        .with_objective(Objective::CosFace { margin: 0.5 })
        .with_scale(12.5)
        .with_input(Input::PreScaled)
        .with_reduction(Reduction::Sum)
        .with_ignore_label(-7)
        .with_class_weights([1.0, 0.5, 2.0])
        .with_label_smoothing(0.1)
        .init(&Device::flex());
    let loss = loss.loss();
    assert_eq!(loss.objective(), Some(Objective::CosFace { margin: 0.5 }));
    assert_eq!(
        (loss.scale(), loss.input()),
        (Some(12.5), Some(Input::PreScaled))
    );
    assert_eq!(
        (loss.reduction(), loss.ignore_label()),
        (Reduction::Sum, Some(-7))
    );
    assert_eq!(loss.table().targets()[2].weight, 2.0);
    assert_eq!(loss.label_smoothing(), 0.1);
}

#[derive(Module, Debug)]
struct Model {
    head: CosineHead,
    loss: AlaLoss,
}

impl Model {
    fn new(device: &Device) -> Self {
        Self {
            head: CosineHeadConfig::new(4, 3).init(device),
            loss: AlaLossConfig::new([9, 4, 1]).init(device),
        }
    }
}

#[test]
fn a_model_that_holds_both_is_saved_and_loaded() {
    let (folder, device) = (folder(), Device::flex());
    let saved = Model::new(&device);
    let file = folder.path().join("model");
    saved.clone().into_record().save(&file).expect("written");
    let record = burn::store::ModuleRecord::load(&file).expect("read");
    let loaded = Model::new(&device).load_record(record);
    let features = matrix(
        (0..4 * ROWS).map(|i| (i as f64).cos()).collect(),
        ROWS,
        &device,
    );
    let features = features.cast(burn::tensor::DType::F32);
    let value = |model: &Model| {
        let cosines = model.head.forward(features.clone());
        let labels = integers(&[0, 1, 2, 0, 1, 2, 0], &device);
        numbers(model.loss.forward(cosines, labels))
    };
    assert_eq!(value(&loaded), value(&saved));
    assert_ne!(value(&Model::new(&device)), value(&saved));
}
