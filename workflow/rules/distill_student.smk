rule distill_student:
    input:
        start=plan.start,
        split="results/{name}/seed{seed}{budget}/split",
        pseudo_labels=plan.pseudo_labels,
    output:
        directory("results/{name}/seed{seed}{budget}/distill_student/{recipe}"),
    log:
        "results/{name}/logs/distill_student/seed{seed}{budget}/{recipe}.log",
    benchmark:
        "results/{name}/benchmarks/distill_student/seed{seed}{budget}/{recipe}.tsv"
    wildcard_constraints:
        recipe=one_of(plan.recipes("distill_student")),
    priority: 1
    conda:
        "../../envs/cast.yaml"
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
        gpu=RESOURCES.gpu,
    params:
        settings=plan.settings("distill_student"),
        start=plan.start_folder,
        pseudo_labels=plan.pseudo_label_option,
    shell:
        "cast distill_student --settings {params.settings:q} --start {params.start:q} --split {input.split:q}"
        " {params.pseudo_labels:q} --seed {wildcards.seed} --out {output:q} --threads {threads}"
        " 2>&1 | tee {log:q}"
