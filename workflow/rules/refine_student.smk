rule refine_student:
    input:
        start=plan.start,
        split="results/{name}/seed{seed}{budget}/split",
        pseudo_labels=plan.pseudo_labels,
    output:
        directory("results/{name}/seed{seed}{budget}/refine_student/{recipe}"),
    log:
        "results/{name}/logs/refine_student/seed{seed}{budget}/{recipe}.log",
    benchmark:
        "results/{name}/benchmarks/refine_student/seed{seed}{budget}/{recipe}.tsv"
    wildcard_constraints:
        recipe=one_of(plan.recipes("refine_student")),
    priority: 1
    conda:
        "../../envs/cast.yaml"
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
        gpu=RESOURCES.gpu,
    params:
        settings=plan.settings("refine_student"),
        start=plan.start_folder,
        pseudo_labels=plan.pseudo_label_option,
    shell:
        "cast refine_student --settings {params.settings:q} --start {params.start:q} --split {input.split:q}"
        " {params.pseudo_labels:q} --seed {wildcards.seed} --out {output:q} --threads {threads}"
        " 2>&1 | tee {log:q}"
